"""``python -m bench.cell <setting> <method>``: one cell of the few-shot table, all its seeds.

The method "controls" stands for all controls, and for what is shown beside them: they learn nothing, and one run has them all.
"""

import json
import shutil
from fnmatch import fnmatch
from typing import Annotated

import typer

from bench import CELLS, FOUND
from ltdi.errors import InputError


def main(
    setting: Annotated[str, typer.Argument(help="A setting of bench/params.yaml.")],
    method: Annotated[str, typer.Argument(help="A method of bench/params.yaml, or controls.")],
) -> None:
    found = json.loads((FOUND / f"{setting}.json").read_text(encoding="utf-8"))
    folder = CELLS / setting / method
    shutil.rmtree(folder, ignore_errors=True)
    why = found["missing"]
    if any(fnmatch(f"{setting}/{method}", pattern) for pattern in found["budget"]["leaves_out"]):
        why = f"{method} is not in the budget {found['budget']['name']}; make bench BUDGET=cpu"
    if why:
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps({"missing": why}), encoding="utf-8")
        return
    from bench.measure import measure  # here, because it imports torch: dozens of missing cells should not wait for it
    from pipeline.progress import console, say

    try:
        measure(setting, method, found["budget"])
    except InputError as error:
        console.print(f"[bold red]bench.cell {setting} {method}[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error


if __name__ == "__main__":
    typer.run(main)
