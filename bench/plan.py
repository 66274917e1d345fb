"""``python -m bench plan``: what every cell of the few-shot table would run -> bench/work/plan/<setting>/<method>.json.

All that a cell's figures depend on stands in its file: the params that its stages get, a name for the code that
they run, or why it has none. That file is the cell's only dependency: DVC runs the cell when it changes, and the lock
file that DVC reads and writes around every cell stays short (with fifty files a cell it grew to 36,000 lines).
"""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import BENCH, PLAN
from bench.options import RAW, Root
from bench.settings import bench_params, cell_params, pick
from bench.stages import PLACE, PLACED, name_of_body, name_of_code, read_stages
from ltdi.datasets import mini_imagenet, omniglot
from ltdi.store import write_json
from ltdi.utils.console import say
from ltdi.utils.errors import InputError

LOCATE = {"glyphs": lambda root: root, "omniglot": omniglot.locate, "mini_imagenet": mini_imagenet.locate}

OWN_CODE = ("audits.py", "cell.py", "machine.py", "options.py", "plan.py", "settings.py", "stages.py", "text.py")
"""The files of the bench that a cell's figures go through."""


def main(
    budget: Annotated[str, typer.Option(envvar="BUDGET", help="A budget of bench/params.yaml.")] = "quick",
    root: Root = RAW,
) -> None:
    bench = bench_params()
    chosen = pick(bench, "budgets", budget)
    missing = {data: _why_missing(data, root) for data in bench["data"]}
    for setting, values in bench["settings"].items():
        for method in ("baselines", *bench["methods"]):
            why = _why_left_out(setting, method, budget, chosen["leaves_out"]) or missing[values["data"]]
            cell = {"missing": why}
            if not why:
                cell |= {"budget": budget, **what_runs(bench, setting, method, chosen)}
            write_json(PLAN / setting / f"{method}.json", cell, kind="cell")
    for data, why in missing.items():
        if why:
            say(f"bench: the settings of {data} are skipped: {why}")


def _why_missing(data: str, root: Path) -> str:
    """How to get a data set that is not here; nothing for one that is."""
    try:
        LOCATE[data](root)
    except InputError as error:
        return str(error)
    return ""


def _why_left_out(setting: str, method: str, budget: str, patterns: list[str]) -> str:
    left_out = f"not in the budget {budget}; make bench BUDGET=cpu"
    if any(fnmatch(setting, pattern) for pattern in patterns):
        return left_out
    return f"{method} is {left_out}" if any(fnmatch(f"{setting}/{method}", pattern) for pattern in patterns) else ""


def what_runs(bench: Mapping[str, Any], setting: str, method: str, budget: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's seeds, the params of its stages but for the seed, and names for the body and the code that it runs."""
    params = cell_params(bench, setting, method, budget)
    names = {"body": name_of_body(params), "bench": name_of_code(BENCH, tuple(BENCH / name for name in OWN_CODE))}
    names |= {stage.name: stage.code(params) for stage in read_stages().values()}
    # nor are the hyperparameters of methods that do not run a part of what runs
    used = [params["method"]["name"], *params["method"]["baselines"]]
    params["methods"] = {name: params["methods"][name] for name in used if name in params["methods"]}
    for section in PLACED:
        params[section] = {key: value for key, value in params[section].items() if key not in PLACE}
    del params["seed"]
    return {"seeds": budget["seeds"], "params": params, "names": names}
