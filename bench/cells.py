"""The measured cells of the few-shot table, read back: rows of tasks' scores and times, compared with the baselines."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import CELLS, FEW_SHOT
from bench.rows import compared, summary
from ltdi.store import read_json, read_table


@dataclass(frozen=True, eq=False)
class Row:
    """A method in a setting: the scores of all tasks by seed, its times, and its facts."""

    setting: str
    method: str
    scores: pd.DataFrame
    times: pd.DataFrame
    facts: dict[str, Any]

    @cached_property
    def values(self) -> Tensor:
        """All tasks of all seeds, one after another (S·M,)."""
        return torch.tensor(self.scores.sort_values(["seed", "task"]).score.to_numpy())

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``tasks``, ``accuracy`` and ``ci95``."""
        return summary(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds."""
        means = self.scores.groupby("seed").score.mean()
        return float(means.std()) if len(means) > 1 else None

    @property
    def seconds(self) -> float:
        """Of meta-training, a seed."""
        seeds = self.facts["seeds"].values()
        return sum(each["seconds"] for each in seeds) / len(seeds)

    def ms(self, batch: int, *parts: str) -> float:
        """The median over seeds."""
        chosen = self.times[self.times.batch == batch]
        return float(chosen[list(parts)].sum(axis=1).median())

    def to_weights(self, batch: int) -> float:
        """Milliseconds a task from support images to weights."""
        return self.ms(batch, "ms_embed", "ms_generate")

    def of_seed(self, seed: int) -> "Row":
        return replace(self, scores=self.scores[self.scores.seed == seed])


@dataclass(frozen=True, eq=False)
class Cells:
    """The rows by (setting, method), and why a setting, or a method in it, has none; ``bench`` is bench/params.yaml;
    ``audits`` are the audits' rows."""

    rows: dict[tuple[str, str], Row]
    missing: list[str]
    bench: Mapping[str, Any]
    audits: list[pd.DataFrame]

    def methods(self, setting: str) -> list[str]:
        """Those that are measured, baselines last."""
        return [each for each in (*self.bench["methods"], *self.bench["baselines"]) if (setting, each) in self.rows]

    @property
    def settings(self) -> list[str]:
        return [each for each in self.bench["settings"] if self.methods(each)]

    def has_baselines(self, setting: str) -> bool:
        return (setting, self.bench["baselines"][0]) in self.rows

    def compared(self, setting: str, method: str) -> dict[str, Any]:
        """``best_baseline`` of the setting, ``paired_diff`` and ``paired_ci95`` of the method − it, task by task."""
        baselines = {each: self.rows[setting, each].values for each in self.bench["baselines"] if each != method}
        return compared(self.rows[setting, method].values, baselines)

    def of_seed(self, setting: str, seed: int) -> "Cells":
        rows = {key: row.of_seed(seed) for key, row in self.rows.items() if key[0] == setting}
        return Cells(rows, [], self.bench, [])


def load(bench: Mapping[str, Any]) -> Cells:
    """What `make bench` has measured here."""
    rows: dict[tuple[str, str], Row] = {}
    missing: dict[str, None] = {}
    audits: list[pd.DataFrame] = []
    for setting, cell in product(bench["settings"], [*bench["methods"], "baselines"]):
        folder = CELLS / setting / cell
        if not (folder / "cell.json").exists():
            continue
        facts = read_json(folder / "cell.json")
        if facts["missing"]:
            missing.setdefault(f"{setting}: {facts['missing']}", None)
            continue
        audits.append(read_table(folder / "audit.parquet"))
        scores, times = read_table(folder / "per_task.parquet"), read_table(folder / "timing.parquet")
        for method in scores.method.unique():
            own = scores[scores.method == method], times[times.name == method]
            rows[setting, method] = Row(setting, method, *own, facts)
    return Cells(rows, list(missing), bench, audits)


def long_rows(cells: Cells) -> list[dict[str, Any]]:
    """Rows for runs.csv, one a seed."""
    table = []
    for (setting, method), row in cells.rows.items():
        for seed, facts in row.facts["seeds"].items():
            of_seed = cells.of_seed(setting, int(seed))
            entry: dict[str, Any] = {"setting": setting, "method": method, "seed": int(seed)}
            entry |= {"variant": FEW_SHOT, "budget": row.facts["budget"], "train_classes": facts["train_classes"]}
            entry |= of_seed.rows[setting, method].summary
            if method not in cells.bench["baselines"]:
                entry |= of_seed.compared(setting, method)
            if method in cells.bench["methods"]:
                entry["seconds_meta_train"] = round(facts["seconds"], 1)
            entry |= {"ms_batch_1": row.to_weights(1), "ms_batch_64": row.to_weights(64)}
            table.append(entry | {key: row.facts[key] for key in ("device", "commit")})
    return table
