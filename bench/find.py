"""``python -m bench.find``: which settings can be measured here, and how large; the environment, written into files that DVC follows.

``LTDI_DATA`` is the folder that holds the data sets, ``BUDGET`` a budget of bench/params.yaml.
"""

import os
from fnmatch import fnmatch
from pathlib import Path

from bench import BENCH, FOUND, ROOT
from bench.stages import load_yaml
from ltdi.datasets import mini_imagenet, omniglot
from ltdi.errors import InputError
from ltdi.store import write_json
from pipeline.progress import console, say

LOCATE = {"glyphs": lambda root: root, "omniglot": omniglot.locate, "mini_imagenet": mini_imagenet.locate}


def data_root() -> Path:
    return Path(os.environ.get("LTDI_DATA") or ROOT / "data" / "raw")


def main() -> None:
    bench = load_yaml(BENCH / "params.yaml")
    name = os.environ.get("BUDGET") or "quick"
    if name not in bench["budgets"]:
        raise InputError(f"BUDGET = {name!r} is unknown; allowed: {', '.join(bench['budgets'])}")
    budget = bench["budgets"][name]
    missing: dict[str, str] = {}
    for setting, values in bench["settings"].items():
        data = values["data"]
        if any(fnmatch(setting, pattern) for pattern in budget["leaves_out"]):
            why = f"not in the budget {name}; make bench BUDGET=cpu"
        else:
            why = _why_missing(data)
        if why:
            missing.setdefault(why, setting)
        # what other data sets are given is no part of this setting's cells
        own = {"name": name, **budget, "data": {data: budget["data"].get(data, {})}}
        write_json(FOUND / f"{setting}.json", {"missing": why, "budget": own})
    for why, setting in missing.items():
        say(f"bench: {setting} and its like are skipped: {why}")


def _why_missing(data: str) -> str:
    """How to get a data set that is not here; nothing for one that is."""
    try:
        LOCATE[data](data_root())
    except InputError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        console.print("[bold red]bench.find[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error
