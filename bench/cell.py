"""``python -m bench cell <setting> <method>``: one cell of the few-shot table, all its seeds, as it is planned.

The method "baselines" stands for all baselines: they learn nothing, and one run has them all. What the tables need of
the runs is kept in bench/work/cells/<setting>/<method>/.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import CELLS, FEW_SHOT, PLAN
from bench.options import RAW, Root
from bench.settings import defaults


def main(
    setting: Annotated[str, typer.Argument(help="A setting of bench/params.yaml.")],
    method: Annotated[str, typer.Argument(help="A method of bench/params.yaml, or baselines.")],
    root: Root = RAW,
) -> None:
    plan = json.loads((PLAN / setting / f"{method}.json").read_text(encoding="utf-8"))
    folder = CELLS / setting / method
    shutil.rmtree(folder, ignore_errors=True)
    if plan["missing"]:
        folder.mkdir(parents=True)
        shutil.copy(PLAN / setting / f"{method}.json", folder / "cell.json")
    else:
        _measure(plan, folder, root)


def _measure(plan: dict[str, Any], folder: Path, root: Path) -> None:
    """The stages for every seed: scores by task, times, the audit of the method, or of the first baseline, and
    facts."""
    # here, because they import torch: dozens of missing cells should not wait for it
    import pandas as pd

    from bench.audits import audit_rows
    from bench.machine import origin
    from bench.stages import run_stages
    from ltdi.store import read_table, write_json, write_table

    scores, times, audits, facts = [], [], [], {}
    about = {"setting": folder.parent.name, "method": plan["params"]["method"]["name"]}
    about |= {"variant": FEW_SHOT, "budget": plan["budget"]}
    params = plan["params"]
    params["methods"] = defaults()["methods"] | params["methods"]
    params["data"] |= {"root": str(root), "download": False}
    params["texts"] |= {"root": str(root)}
    for seed in plan["seeds"]:
        data = run_stages(params | {"seed": seed})
        table = read_table(data / "results" / "per_task.parquet")
        scores.append(table[["method", "task", "score"]].assign(seed=seed))
        times.append(read_table(data / "weights" / "timing.parquet").assign(seed=seed))
        audits += audit_rows(data, about | {"seed": seed})
        facts[str(seed)] = _facts(data)
    write_table(folder / "audit.parquet", pd.DataFrame(audits))
    write_table(folder / "per_task.parquet", pd.concat(scores, ignore_index=True))
    write_table(folder / "timing.parquet", pd.concat(times, ignore_index=True))
    write_json(folder / "cell.json", {"missing": "", "budget": plan["budget"], **origin(), "seeds": facts})


def _facts(data: Path) -> dict[str, Any]:
    """What the table says of a run beside its scores."""
    from bench.stages import train_classes
    from ltdi.store import read_json

    chosen = read_json(data / "model" / "metrics.json")
    return {
        "train_classes": train_classes(data),
        "ceiling": read_json(data / "results" / "metrics.json")["ceiling"],
        "body": read_json(data / "body" / "metrics.json"),
        **{key: chosen[key] for key in ("val_score", "parameters", "seconds")},
    }
