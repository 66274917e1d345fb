"""``python -m bench.search``: a method's candidates of bench/params.yaml, compared on meta-val -> bench/results/search.csv.

Every method has the same number of candidates, the same steps and tasks; what is found best is written
into ``methods`` of bench/params.yaml by hand.
"""

from typing import Annotated

import pandas as pd
import typer

from bench import BENCH, RESULTS, RUNS
from bench.plan import cell_params, data_root, load_yaml, override
from bench.rows import machine
from bench.stages import run_stages
from ltdi.errors import InputError
from ltdi.store import read_json, write_text
from pipeline.progress import say

KEY = ["setting", "method", "candidate"]


def main(
    setting: Annotated[str, typer.Option(help="A setting of bench/params.yaml.")] = "glyphs-5w1s",
    method: Annotated[list[str], typer.Option(help="A method; all if none is named.")] = [],
    budget: Annotated[str, typer.Option(help="A budget of bench/params.yaml.")] = "quick",
) -> None:
    bench = load_yaml(BENCH / "params.yaml")
    try:
        for each in method or bench["methods"]:
            for candidate in bench["search"][each]:
                params = override(
                    cell_params(bench, setting, each, bench["budgets"][budget]),
                    {"seed": 0, "data.root": str(data_root())} | candidate,
                )
                metrics = read_json(run_stages(params, RUNS, until="meta_train") / "model" / "metrics.json")
                row = {"setting": setting, "method": each, "candidate": str(candidate)}
                row |= {"val_accuracy": metrics["val_accuracy"], "seconds": metrics["seconds"], "device": machine()}
                say(f"{each} {row['candidate']}: {row['val_accuracy']:.4f}")
                _add(row)
    except InputError as error:
        say(f"bench: {error}")
        raise SystemExit(2) from error


def _add(row: dict) -> None:
    file, new = RESULTS / "search.csv", pd.DataFrame([row])
    if file.exists():
        new = pd.concat([pd.read_csv(file), new]).drop_duplicates(KEY, keep="last")
    write_text(file, new.sort_values(KEY).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    typer.run(main)
