"""``python -m bench.cell <setting> <method>``: one cell of the few-shot table, all its seeds -> bench/work/cells/<setting>/<method>/.

The method "controls" stands for all controls: they learn nothing, and one run has them all.
"""

import shutil
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from bench.find import BENCH, FOUND, data_root
from bench.rows import commit, machine
from bench.stages import ROOT, changes_of, load_yaml, override, run_stages
from ltdi.errors import InputError
from ltdi.store import read_json, read_table, read_tensors, write_json, write_table
from pipeline.progress import console, say

CELLS = BENCH / "work" / "cells"
RUNS = ROOT / "runs"


def main(
    setting: Annotated[str, typer.Argument(help="A setting of bench/params.yaml.")],
    method: Annotated[str, typer.Argument(help="A method of bench/params.yaml, or controls.")],
) -> None:
    try:
        measure(setting, method)
    except InputError as error:
        console.print(f"[bold red]bench.cell {setting} {method}[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error


def measure(setting: str, method: str) -> None:
    found = read_json(FOUND / f"{setting}.json")
    folder = CELLS / setting / method
    shutil.rmtree(folder, ignore_errors=True)
    if found["missing"]:
        write_json(folder / "cell.json", {"missing": found["missing"]})
        return
    bench = load_yaml(BENCH / "params.yaml")
    budget = bench["budgets"][found["budget"]]
    say(f"bench: {setting} {method}, {budget['label']}")
    scores, times, facts = [], [], {}
    for seed in budget["seeds"]:
        data = run_stages(cell_params(bench, setting, method, budget, seed), RUNS)
        scores.append(read_table(data / "results" / "per_task.parquet")[["method", "task", "accuracy"]].assign(seed=seed))
        times.append(read_table(data / "weights" / "timing.parquet").assign(seed=seed))
        facts[str(seed)] = _facts(data)
    write_table(folder / "per_task.parquet", pd.concat(scores, ignore_index=True))
    write_table(folder / "timing.parquet", pd.concat(times, ignore_index=True))
    write_json(folder / "cell.json", {"missing": "", "budget": found["budget"], "device": machine(), "commit": commit(), "seeds": facts})


def cell_params(bench: dict, setting: str, method: str, budget: dict, seed: int) -> dict:
    """The params of one run of a cell; ``budget`` is one of ``bench["budgets"]``."""
    changes = changes_of(bench, setting, budget) | {"data.root": str(data_root()), "seed": seed}
    if method == "controls":
        first, *others = bench["controls"]
        changes |= {"method.name": first, "method.controls": others}
    else:
        changes |= {"method.name": method, "method.controls": []} | bench["methods"][method] | budget["methods"].get(method, {})
    return override(load_yaml(ROOT / "params.yaml"), changes)


def _facts(data: Path) -> dict:
    """What the table says of a run beside its scores."""
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    return {
        "train_classes": read_tensors(data / "tasks" / "features.safetensors")[1]["train_classes"],
        "ceiling": metrics["ceiling"],
        "val_accuracy": chosen["val_accuracy"],
        "parameters": chosen["parameters"],
        "seconds": chosen["seconds"],
        "body": read_json(data / "body" / "metrics.json"),
    }


if __name__ == "__main__":
    typer.run(main)
