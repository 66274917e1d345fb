"""A cell of the few-shot table: the stages for every seed, and what is kept of them -> bench/work/cells/<setting>/<method>/."""

from pathlib import Path

import pandas as pd

from bench import ROOT, RUNS
from bench.plan import data_root, load_yaml
from bench.rows import commit, machine
from bench.stages import run_stages
from ltdi.store import read_json, read_table, read_tensors, write_json, write_table


def measure(plan: dict, folder: Path) -> None:
    """Run a cell that bench/plan.py has written down and write what the tables need of it."""
    scores, times, facts = [], [], {}
    place = {"root": str(data_root()), "download": False}
    methods = load_yaml(ROOT / "params.yaml")["methods"] | plan["params"]["methods"]
    for seed in plan["seeds"]:
        data = run_stages(
            plan["params"] | {"seed": seed, "data": plan["params"]["data"] | place, "methods": methods}, RUNS
        )
        scores.append(
            read_table(data / "results" / "per_task.parquet")[["method", "task", "accuracy"]].assign(seed=seed)
        )
        times.append(read_table(data / "weights" / "timing.parquet").assign(seed=seed))
        facts[str(seed)] = _facts(data)
    write_table(folder / "per_task.parquet", pd.concat(scores, ignore_index=True))
    write_table(folder / "timing.parquet", pd.concat(times, ignore_index=True))
    write_json(
        folder / "cell.json",
        {"missing": "", "budget": plan["budget"], "device": machine(), "commit": commit(), "seeds": facts},
    )


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
