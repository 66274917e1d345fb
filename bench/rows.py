"""The long tables of bench/results/, the one road into them and out of them."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import RESULTS
from ltdi.store import read_table, write_text
from ltdi.store.schemas import PER_TASK
from ltdi.utils.metrics import best_and_paired, mean_and_ci95

_CELL = "setting method variant budget train_classes seed beside body n_way n_shot present candidate weights"
KEY = tuple(_CELL.split())
"""The columns that say which cell a row is of."""

_RUN = "setting method variant budget train_classes seed tasks"
_AUDITED = "setting method variant budget"
_SCORE = "accuracy ci95 best_baseline paired_diff paired_ci95"
_CHOSEN = "chosen_baseline chosen_diff chosen_ci95"
_CHOICE = "val_accuracy val_best_baseline val_paired_diff val_paired_ci95"

TABLES = {
    # every measured row
    "runs.csv": f"{_RUN} {_SCORE} ms_batch_1 ms_batch_64 seconds_meta_train device commit",
    # what was chosen by, on meta-val
    "choices.csv": f"{_RUN} {_CHOICE} seconds_meta_train device commit",
    # a method − what learned without it, paired over tasks
    "beside.csv": f"{_RUN} beside paired_diff paired_ci95 device commit",
    # how sharp the trained heads' minima are
    "sharpness.csv": "setting variant budget seed tasks lambda_max ci95 paired_diff paired_ci95 device commit",
    # heads for other numbers of classes and images than a run was trained on
    "ways.csv": f"setting budget seed n_way n_shot method tasks {_SCORE} device commit",
    # photographs, a row a meta-test domain; ``chosen``: the baseline that is the best on meta-val
    "photos.csv": f"setting n_shot method train_classes seed tasks {_SCORE} {_CHOSEN} seconds_meta_train device commit",
    # the same with the images to be classified known, unlabelled; ``ahead``: the trained method − the row's
    "transductive.csv": "setting n_shot present method seed tasks accuracy ci95 ahead ahead_ci95 hyperparameters device"
    " commit",
    # the three columns of the form of Table 4
    "domains.csv": f"setting n_way n_shot method seed tasks {_SCORE} seconds_meta_train device commit",
    # weights for right and wrong conditions
    "audit.csv": f"{_AUDITED} seed weights tasks accuracy ci95 paired_diff paired_ci95 device commit",
    # the paper's methods on other bodies
    "backbones.csv": f"setting body method seed tasks {_SCORE} seconds_meta_train device commit",
    # a method's candidates
    "search.csv": "setting method candidate budget val_accuracy seconds device commit",
}
"""The columns of each table; ``budget`` is one of bench/params.yaml; of audited runs of other params it is "own"."""


def read(name: str) -> pd.DataFrame:
    """A long table, empty where nothing has been measured."""
    file = RESULTS / name
    if not file.exists():
        return pd.DataFrame(columns=TABLES[name].split())
    return pd.read_csv(file, dtype={"commit": str})


def add(name: str, rows: list[dict[str, Any]] | pd.DataFrame) -> None:
    """Put rows into a long table, in the place of older rows of the same cells; two programs may do so at once."""
    columns = TABLES[name].split()
    key = [column for column in KEY if column in columns]
    with _locked():
        known = read(name)
        parts = [part for part in (known, pd.DataFrame(rows)) if len(part)]
        if not parts:
            return
        table = pd.concat(parts).drop_duplicates(key, keep="last").reindex(columns=columns).sort_values(key)
        write_text(RESULTS / name, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


@contextmanager
def _locked() -> Iterator[None]:
    """One program at a time between reading a table and writing it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def scores_by_method(data: Path) -> dict[str, Tensor]:
    """The score of each meta-test task of a finished run (M,) by method."""
    table = read_table(data / "results" / "per_task.parquet", kind=PER_TASK).sort_values("task")
    return {str(name): torch.tensor(own.score.to_numpy()) for name, own in table.groupby("method")}


def summary(scores: Tensor) -> dict[str, Any]:
    """The columns that say how well a method did on its tasks (M,)."""
    mean, ci95 = mean_and_ci95(scores)
    return {"tasks": len(scores), "accuracy": mean, "ci95": ci95}


def pooled(ci95: pd.Series) -> float:
    """The interval of a mean over seeds whose tasks are drawn apart."""
    return float((ci95**2).sum() ** 0.5 / len(ci95))


def compared(own: Tensor, baselines: Mapping[str, Tensor]) -> dict[str, Any]:
    """The columns that say how far a method is ahead of the best baseline on the same tasks."""
    best, paired = best_and_paired(own, baselines)
    return {"best_baseline": best, "paired_diff": paired["difference"], "paired_ci95": paired["ci95"]}
