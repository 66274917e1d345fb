"""``python -m bench.cell <setting> <method>``: one cell of the few-shot table, all its seeds, as bench/plan.py wrote it down.

The method "controls" stands for all controls, and for what is shown beside them: they learn nothing, and one run has them all.
"""

import json
import shutil
from typing import Annotated

import typer

from bench import CELLS, PLAN
from ltdi.errors import InputError


def main(
    setting: Annotated[str, typer.Argument(help="A setting of bench/params.yaml.")],
    method: Annotated[str, typer.Argument(help="A method of bench/params.yaml, or controls.")],
) -> None:
    plan = json.loads((PLAN / setting / f"{method}.json").read_text(encoding="utf-8"))
    folder = CELLS / setting / method
    shutil.rmtree(folder, ignore_errors=True)
    if plan["missing"]:
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(plan), encoding="utf-8")
        return
    from bench.measure import measure  # here, because it imports torch: dozens of missing cells should not wait for it
    from pipeline.progress import console, say

    say(f"bench: {setting} {method}, budget {plan['budget']}")
    try:
        measure(plan, folder)
    except InputError as error:
        console.print(f"[bold red]bench.cell {setting} {method}[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error


if __name__ == "__main__":
    typer.run(main)
