"""A cell of the few-shot table: the stages for every seed, and what is kept of them -> bench/work/cells/<setting>/<method>/."""

from pathlib import Path

import pandas as pd

from bench import BENCH, CELLS, ROOT, RUNS
from bench.find import data_root
from bench.rows import commit, machine
from bench.stages import changes_of, load_yaml, override, run_stages
from ltdi.store import read_json, read_table, read_tensors, write_json, write_table
from pipeline.progress import say


def measure(setting: str, method: str, budget: dict) -> None:
    """Run a cell for all seeds of the budget and write what the tables need of it."""
    bench, folder = load_yaml(BENCH / "params.yaml"), CELLS / setting / method
    say(f"bench: {setting} {method}, {budget['label']}")
    scores, times, facts = [], [], {}
    for seed in budget["seeds"]:
        data = run_stages(cell_params(bench, setting, method, budget, seed), RUNS)
        scores.append(read_table(data / "results" / "per_task.parquet")[["method", "task", "accuracy"]].assign(seed=seed))
        times.append(read_table(data / "weights" / "timing.parquet").assign(seed=seed))
        facts[str(seed)] = _facts(data)
    write_table(folder / "per_task.parquet", pd.concat(scores, ignore_index=True))
    write_table(folder / "timing.parquet", pd.concat(times, ignore_index=True))
    write_json(folder / "cell.json", {"missing": "", "budget": budget["name"], "device": machine(), "commit": commit(), "seeds": facts})


def cell_params(bench: dict, setting: str, method: str, budget: dict, seed: int) -> dict:
    """The params of one run of a cell; ``budget`` is one of bench/params.yaml."""
    changes = changes_of(bench, setting, budget) | {"data.root": str(data_root()), "seed": seed}
    if method == "controls":
        first, *others = [*bench["controls"], *bench["beside"]]
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
