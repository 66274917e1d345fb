"""Rows of the audit beside those of the tables: what is left of the accuracy where the condition is a wrong one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench.machine import origin
from bench.text import percent, table
from ltdi.evaluation.condition_ablation import CONDITIONS, RIGHT, compare_conditions

TASKS = 200
COLUMNS = (*CONDITIONS, "mean of the training weights", "nearest training weights")


def audit_rows(data: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind of weights that a finished run's method is audited by; ``about`` says which cell it is."""
    found = compare_conditions(data, n_tasks=TASKS)
    return [
        {**about, "weights": row.weights, "tasks": TASKS, "accuracy": row.score, "ci95": row.ci95}
        | {"paired_diff": row.difference, "paired_ci95": row.difference_ci95, **origin()}
        for row in found.itertuples(index=False)
    ]


def markdown(rows: pd.DataFrame, bench: Mapping[str, Any]) -> str:
    """A line a setting, method, variant and budget: the accuracy with each kind of weights, over all seeds."""
    lines = []
    for (setting, method, variant, budget), own in rows.groupby(["setting", "method", "variant", "budget"]):
        means = own.groupby("weights")[["accuracy", "ci95", "paired_diff", "paired_ci95"]].mean()
        wrong = means[means.index != RIGHT]
        level = wrong[~(wrong.paired_diff < -wrong.paired_ci95)].index
        cells = [
            percent(means.accuracy[name], means.ci95[name]) if name in means.index else "not of these weights"
            for name in COLUMNS
        ]
        seeds = ", ".join(map(str, sorted(set(own.seed))))
        told = f"no: {', '.join(level)}" if len(level) else "yes"
        name = bench["names"].get(method, str(method))
        lines.append([str(setting), name, str(variant), str(budget), seeds, *cells, told])
    head = ["setting", "method", "variant", "budget", "seeds", *COLUMNS, "right is ahead of all"]
    machines = ", ".join(sorted(set(rows.device)))
    return (
        "# Does the condition matter? Accuracy in percent\n\n"
        f"The first {TASKS} meta-test tasks of a run, all weights from the same noise: for the right condition, for"
        " another task's, for the right one with its classes in each other's places, for random numbers and for none;"
        " and training weights that know nothing of the task. ± is the 95 % interval over tasks, the mean of the seeds'"
        " where there are several; *ahead*: by more than the 95 % interval of the paired difference. A method that"
        " trains a body of its own has no training weights beside it. Rows:"
        f" `audit.csv`, which has noise around these weights too; machine: {machines}. Of one run: `ltdi audit"
        " <its data folder>`.\n\n" + table(head, lines)
    )
