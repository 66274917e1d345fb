"""The curves of ``python -m bench paper``, in the form of the paper's Figures 4 (right) and 5 (left): paper_curves.csv
and two pictures in figures/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench.plots import Look, lines
from ltdi.store import write_text

CHAINS = ("lvdi", "ltdi", "mcdi")
SECONDS = ("seconds", "CPU seconds of meta-training, collection included")
BY_TIME = Look(
    "Weight MSE on meta-val against time (the form of Figure 5, left)",
    SECONDS,
    ("val_weight_mse", "weight MSE of generated heads"),
    line="case",
    log=True,
)
BY_SUB_CHAIN = Look(
    "Loss of each sub-chain of Lt-Di on meta-val against time (the form of Figure 4, right)",
    SECONDS,
    ("loss", "mean squared error of the sub-chain's end"),
    line="case",
)


def curves(measured: pd.DataFrame) -> pd.DataFrame:
    """A line for every measure of every training of a chain: setting, seed, row and what the training yielded."""
    parts = []
    for (setting, seed, row), own in measured.groupby(["setting", "seed", "row"], sort=False):
        if row in CHAINS:
            about = {"setting": setting, "seed": seed, "row": row, "commit": own.commit.iloc[0]}
            parts += [about | step for step in json.loads(own.curve.iloc[0])]
    return pd.DataFrame(parts)


def write(measured: pd.DataFrame, preset: Mapping[str, Any], results: Path) -> None:
    found = curves(measured)
    if found.empty:
        return
    write_text(results / "paper_curves.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    seeds = ", ".join(map(str, sorted(found.seed.unique())))
    note = f"from noise, on recorded weights alone; seeds {seeds}; commit {', '.join(sorted(found.commit.unique()))}"
    rows = found.assign(form="paper", case=found.row.map(preset["names"]))
    (results / "figures").mkdir(parents=True, exist_ok=True)
    lines(rows, BY_TIME, note, results / "figures" / "paper_time.png")
    losses = [name for name in rows if str(name).startswith("val_loss_w")]
    long = rows[rows.row == "ltdi"].melt(["setting", "seed", "step", "seconds", "form"], losses, "point", "loss")
    long = long.dropna(subset=["loss"]).assign(
        case=lambda table: "ends at " + table.point.str.removeprefix("val_loss_")
    )
    if len(long):
        lines(long, BY_SUB_CHAIN, note, results / "figures" / "paper_sub_chains.png")
