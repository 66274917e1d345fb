"""The long tables of bench/results/: read, add rows; and the columns of a row."""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from bench import RESULTS
from bench.harness.settings import conf
from ltdi.methods.common.base import Method, scores
from ltdi.store import read_table, write_text
from ltdi.store.schemas import PER_TASK
from ltdi.utils.devices import device
from ltdi.utils.metrics import best_and_paired, mean_and_ci95
from ltdi.utils.seeding import generator

COLUMNS = {name: columns.split() for name, columns in conf("rows").items()}
FORMAT: dict[str, Any] = {"index": False, "float_format": "%.6g", "lineterminator": "\n"}


def read(name: str, folder: Path | None = None) -> pd.DataFrame:
    """A long table, empty where nothing has been measured."""
    file = (folder or RESULTS) / name
    if not file.exists():
        return pd.DataFrame(columns=COLUMNS.get(name, []))
    return pd.read_csv(file, dtype={"commit": str}, sep="\t" if file.suffix == ".tsv" else ",")


def add(name: str, rows: list[dict[str, Any]] | pd.DataFrame) -> None:
    """Put rows into a long table, in place of older rows of the same cells; two programs may do so at once."""
    columns = COLUMNS[name]
    key = [column for column in COLUMNS["key"] if column in columns]
    RESULTS.mkdir(parents=True, exist_ok=True)
    with FileLock(RESULTS / ".lock"):
        parts = [part for part in (read(name), pd.DataFrame(rows)) if len(part)]
        if not parts:
            return
        table = pd.concat(parts).drop_duplicates(key, keep="last").reindex(columns=columns).sort_values(key)
        write_text(RESULTS / name, table.to_csv(**FORMAT))


def scores_by_method(data: Path) -> dict[str, Tensor]:
    """The score of each meta-test task of a finished run (M,) by method."""
    table = read_table(data / "results" / "per_task.parquet", kind=PER_TASK).sort_values("task")
    return {str(name): torch.tensor(own.score.to_numpy()) for name, own in table.groupby("method")}


def scored(method: Method, source: Any, seed: int) -> Tensor:
    """The score of each task (M,) of the weights that a method generates."""
    return scores(method.learner, source, lambda c: method.generate(c, generator=generator(seed, "noise")))


def summary(scores: Tensor) -> dict[str, Any]:
    """``tasks``, ``accuracy`` and ``ci95`` of the scores of tasks (M,)."""
    mean, ci95 = mean_and_ci95(scores)
    return {"tasks": len(scores), "accuracy": mean, "ci95": ci95}


def compared(own: Tensor, baselines: Mapping[str, Tensor]) -> dict[str, Any]:
    """``best_baseline`` of the same tasks, ``paired_diff`` and ``paired_ci95`` of ``own`` − it."""
    best, paired = best_and_paired(own, baselines)
    return {"best_baseline": best, "paired_diff": paired["difference"], "paired_ci95": paired["ci95"]}


def origin() -> dict[str, str]:
    """The columns ``device`` and ``commit``: the machine of the times; ``LTDI_COMMIT``, for a node without git, or
    git's."""
    named = os.environ.get("LTDI_COMMIT")
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = named or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {"device": _machine(), "commit": commit}


def _machine() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"
