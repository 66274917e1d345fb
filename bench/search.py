"""``python -m bench search``: a method's candidates of bench/params.yaml, compared on meta-val -> search.csv.

Every method has the same number of candidates, the same steps and tasks; what is found best is written
into ``methods`` of bench/params.yaml by hand.
"""

from typing import Annotated

import typer

from bench.machine import origin
from bench.options import NONE, RAW, Budget, Root
from bench.rows import add
from bench.settings import bench_params, cell_params, override, pick
from bench.stages import run_stages
from ltdi.store import read_json
from ltdi.utils.console import say


def main(
    setting: Annotated[str, typer.Option(help="A setting of bench/params.yaml.")] = "glyphs-5w1s",
    method: Annotated[list[str], typer.Option(help="A method; all if none is named.")] = NONE,
    budget: Budget = "quick",
    root: Root = RAW,
) -> None:
    bench = bench_params()
    chosen = pick(bench, "budgets", budget)
    for each in method or bench["methods"]:
        params = override(cell_params(bench, setting, each, chosen), {"seed": 0, "data.root": str(root)})
        for candidate in bench["search"][each]:
            data = run_stages(override(params, candidate), until="meta_train")
            metrics = read_json(data / "model" / "metrics.json")
            about = {"setting": setting, "method": each, "candidate": str(candidate), "budget": budget}
            found = {"val_accuracy": metrics["val_score"], "seconds": metrics["seconds"]}
            say(f"{each} {candidate}: {metrics['val_score']:.4f}")
            add("search.csv", [about | found | origin()])
