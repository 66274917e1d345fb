"""``python -m bench.plan``: what every cell of the bench would run -> bench/work/plan/<setting>/<method>.json.

All that a cell's figures depend on stands in its file: the params that its stages get, a name for the code that
they run, or why it has none. That file is the cell's only dependency: DVC runs the cell when it changes, and the lock
file that DVC reads and writes around every cell stays short (with fifty files a cell it grew to 36,000 lines).
``LTDI_DATA`` is the folder that holds the data sets, ``BUDGET`` a budget of bench/params.yaml.
"""

import os
from copy import deepcopy
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from bench import BENCH, PLAN, ROOT
from ltdi.datasets import mini_imagenet, omniglot
from ltdi.errors import InputError
from ltdi.store import checksum, digest, write_json
from pipeline.progress import console, say

LOCATE = {"glyphs": lambda root: root, "omniglot": omniglot.locate, "mini_imagenet": mini_imagenet.locate}
OWN_CODE = ("cell.py", "measure.py", "plan.py", "rows.py", "stages.py")


def data_root() -> Path:
    return Path(os.environ.get("LTDI_DATA") or ROOT / "data" / "raw")


def main() -> None:
    bench = load_yaml(BENCH / "params.yaml")
    name = os.environ.get("BUDGET") or "quick"
    if name not in bench["budgets"]:
        raise InputError(f"BUDGET = {name!r} is unknown; allowed: {', '.join(bench['budgets'])}")
    budget = bench["budgets"][name]
    missing = {data: _why_missing(data) for data in bench["data"]}
    for setting, values in bench["settings"].items():
        for method in ("controls", *bench["methods"]):
            why = _why_left_out(setting, method, name, budget["leaves_out"]) or missing[values["data"]]
            cell = (
                {"missing": why}
                if why
                else {"missing": "", "budget": name, **what_runs(bench, setting, method, budget)}
            )
            write_json(PLAN / setting / f"{method}.json", cell)
    for data, why in missing.items():
        if why:
            say(f"bench: the settings of {data} are skipped: {why}")


def _why_missing(data: str) -> str:
    """How to get a data set that is not here; nothing for one that is."""
    try:
        LOCATE[data](data_root())
    except InputError as error:
        return str(error)
    return ""


def _why_left_out(setting: str, method: str, budget: str, patterns: list[str]) -> str:
    left_out = f"not in the budget {budget}; make bench BUDGET=cpu"
    if any(fnmatch(setting, pattern) for pattern in patterns):
        return left_out
    return f"{method} is {left_out}" if any(fnmatch(f"{setting}/{method}", pattern) for pattern in patterns) else ""


def what_runs(bench: dict, setting: str, method: str, budget: dict) -> dict:
    """A cell's seeds, the params of its stages but for the seed, and a name for the code that it runs."""
    params = cell_params(bench, setting, method, budget)
    # where the data lie is no part of what they are, nor are the knobs of methods that do not run
    del params["data"]["root"], params["data"]["download"], params["seed"]
    names = [params["method"]["name"], *params["method"]["controls"]]
    params["methods"] = {name: params["methods"][name] for name in names if name in params["methods"]}
    stages = load_yaml(ROOT / "dvc.yaml")["stages"]
    body = params["body"]["weights"] and checksum(ROOT / params["body"]["weights"])
    code = digest(
        body,
        *(code_of(stage, names[0], controls=len(names) > 1) for stage in stages),
        *(_read(BENCH / file) for file in OWN_CODE),
    )
    return {"seeds": budget["seeds"], "params": params, "code": code}


def cell_params(bench: dict, setting: str, method: str, budget: dict) -> dict:
    """The params of a cell; ``budget`` is one of bench/params.yaml, the method "controls" stands for all controls."""
    changes = changes_of(bench, setting, budget)
    if method == "controls":
        first, *others = bench["controls"]
        changes |= {"method.name": first, "method.controls": others}
    else:
        changes |= (
            {"method.name": method, "method.controls": []}
            | bench["methods"][method]
            | budget["methods"].get(method, {})
        )
    return override(load_yaml(ROOT / "params.yaml"), changes)


def changes_of(bench: dict, setting: str, budget: dict) -> dict[str, object]:
    """What a setting and a budget of bench/params.yaml change in params.yaml, by dotted key."""
    values = dict(bench["settings"][setting])
    data = values.pop("data")
    return bench["data"][data] | values | budget["overrides"] | budget.get("data", {}).get(data, {})


def load_yaml(path: Path) -> dict:
    return YAML(typ="safe").load(path)


def override(params: dict, changes: dict[str, object]) -> dict:
    """A copy of ``params`` with dotted keys set, e.g. ``{"tasks.n_way": 20}``.

    Raises:
        InputError: a key that ``params`` does not have.
    """
    params = deepcopy(params)
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = params
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise InputError(f"bench: {key} = {value!r} is not a key of params.yaml; correct the name")
        place[last] = value
    return params


@cache
def code_of(stage: str, method: str, *, controls: bool) -> str:
    """A name for the code that a stage of ../dvc.yaml runs: the files that it declares, those of controls only where there are any."""
    deps = load_yaml(ROOT / "dvc.yaml")["stages"][stage]["deps"]
    bench = load_yaml(BENCH / "params.yaml")
    of_controls = {ROOT / "ltdi" / "methods" / f"{name}.py" for name in bench["controls"]}
    own = ROOT / "ltdi" / "methods" / f"{method}.py"
    paths = [ROOT / dep.replace("${method.name}", method) for dep in deps if dep.startswith(("ltdi/", "pipeline/"))]
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}
    files -= set() if controls else of_controls - {own}
    return digest(*(f"{file.relative_to(ROOT)}\n{_read(file)}" for file in sorted(files) if file.exists()))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        console.print("[bold red]bench.plan[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error
