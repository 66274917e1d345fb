"""The measured cells of the few-shot table, read back; the picture of accuracy against time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from bench import CELLS, FEW_SHOT
from bench.harness.rows import compared, summary
from bench.harness.settings import bench_params
from ltdi.store import read_json, read_table

LEFT_OUT = ("mean_head", "nearest_head")
"""Far below all others: they would make the picture one line."""


@dataclass(frozen=True, eq=False)
class Measured:
    """All measured cells: ``scores`` (setting, method, seed, task, score), ``times``, and the ``facts`` of each cell by
    (setting, method); why others are ``missing``; ``bench`` is bench/conf/params.yaml."""

    bench: Mapping[str, Any]
    scores: pd.DataFrame
    times: pd.DataFrame
    facts: Mapping[tuple[str, str], Mapping[str, Any]]
    missing: list[str]
    audits: list[pd.DataFrame]

    @classmethod
    def load(cls) -> "Measured":
        bench, missing = bench_params(), dict[str, None]()
        scores, times, audits = [], [], []
        facts: dict[tuple[str, str], Any] = {}
        for setting, name in product(bench["settings"], [*bench["methods"], "baselines"]):
            folder = CELLS / setting / name
            if not (folder / "cell.json").exists():
                continue
            found = read_json(folder / "cell.json")
            if found["missing"]:
                missing.setdefault(f"{setting}: {found['missing']}", None)
                continue
            audits.append(read_table(folder / "audit.parquet"))
            scores.append(read_table(folder / "per_task.parquet").assign(setting=setting))
            times.append(read_table(folder / "timing.parquet").assign(setting=setting))
            facts |= {(setting, each): found for each in scores[-1].method.unique()}
        empty = [pd.DataFrame(columns=["setting", "method", "seed", "task", "score"])]
        table = pd.concat(scores or empty).sort_values(["seed", "task"], kind="stable")
        return cls(bench, table, pd.concat(times or empty), facts, list(missing), audits)

    def methods(self, setting: str) -> list[str]:
        """Measured methods of a setting, baselines last."""
        return [each for each in (*self.bench["methods"], *self.bench["baselines"]) if (setting, each) in self.facts]

    @property
    def budgets(self) -> list[str]:
        return sorted({facts["budget"] for facts in self.facts.values()})

    @property
    def first(self) -> Mapping[str, Any]:
        """The facts of the first cell."""
        return next(iter(self.facts.values()))

    @property
    def tasks(self) -> str:
        """Of a cell, all seeds together."""
        sizes = self.scores.groupby(["setting", "method"]).size().unique()
        return ", ".join(map(str, sorted(sizes)))

    @property
    def settings(self) -> list[str]:
        return [each for each in self.bench["settings"] if self.methods(each)]

    def of(self, setting: str, method: str) -> pd.DataFrame:
        return self.scores[(self.scores.setting == setting) & (self.scores.method == method)]

    def values(self, setting: str, method: str, seeds: Iterable[int] | None = None) -> Tensor:
        """The scores of all tasks of all seeds (S·M,)."""
        own = self.of(setting, method)
        return torch.tensor((own if seeds is None else own[own.seed.isin(seeds)]).score.to_numpy())

    def summary(self, setting: str, method: str, seeds: Iterable[int] | None = None) -> dict[str, Any]:
        return summary(self.values(setting, method, seeds))

    def compared(self, setting: str, method: str, seeds: Iterable[int] | None = None) -> dict[str, Any]:
        """``best_baseline`` of the setting, ``paired_diff`` and ``paired_ci95`` of the method − it, task by task."""
        baselines = {name: self.values(setting, name, seeds) for name in self.bench["baselines"] if name != method}
        return compared(self.values(setting, method, seeds), baselines)

    def spread(self, setting: str, method: str) -> float | None:
        """The standard deviation between seeds, where there are several."""
        means = self.of(setting, method).groupby("seed").score.mean()
        return float(means.std()) if len(means) > 1 else None

    def ms(self, setting: str, method: str, batch: int, *parts: str) -> float:
        """Milliseconds a task of some parts, the median over seeds."""
        times = self.times
        own = times[(times.setting == setting) & (times.name == method) & (times.batch == batch)]
        return float(own[list(parts)].sum(axis=1).median())

    def adapts(self, setting: str, method: str) -> bool:
        return bool(self.times[(self.times.setting == setting) & (self.times.name == method)].adapts.any())

    def seconds(self, setting: str, method: str) -> float:
        """Of meta-training, the mean over seeds."""
        seeds = self.facts[setting, method]["seeds"].values()
        return sum(each["seconds"] for each in seeds) / len(seeds)

    def best(self, setting: str) -> str | None:
        """The best measured method, baselines aside."""
        names = [each for each in self.methods(setting) if each in self.bench["methods"]]
        return max(names, key=lambda each: self.summary(setting, each)["accuracy"], default=None)

    def has_baselines(self, setting: str) -> bool:
        return (setting, self.bench["baselines"][0]) in self.facts

    def ahead(self, setting: str) -> list[tuple[str, dict[str, Any]]]:
        """Methods above the best baseline by more than the interval, the first by most."""
        found = [
            (name, self.compared(setting, name)) for name in self.methods(setting) if name in self.bench["methods"]
        ]
        return sorted((each for each in found if each[1]["paired_diff"] > each[1]["paired_ci95"]), key=_by_difference)

    def long_rows(self) -> list[dict[str, Any]]:
        """Rows for runs.csv, one a seed."""
        table = []
        for (setting, method), about in self.facts.items():
            for seed, facts in about["seeds"].items():
                row: dict[str, Any] = {"setting": setting, "method": method, "seed": int(seed), "variant": FEW_SHOT}
                row |= {"budget": about["budget"], "train_classes": facts["train_classes"]}
                row |= self.summary(setting, method, [int(seed)])
                if method not in self.bench["baselines"]:
                    row |= self.compared(setting, method, [int(seed)])
                if method in self.bench["methods"]:
                    row["seconds_meta_train"] = round(facts["seconds"], 1)
                row |= {f"ms_batch_{n}": self.ms(setting, method, n, "ms_embed", "ms_generate") for n in (1, 64)}
                table.append(row | {key: about[key] for key in ("device", "commit")})
        return table


def _by_difference(each: tuple[str, dict[str, Any]]) -> float:
    return -each[1]["paired_diff"]


def picture(cells: Measured, path: Path) -> None:
    """Accuracy, as the paired difference to the best baseline, against the time from support images to weights."""
    settings = cells.settings
    methods = [each for each in (*cells.bench["methods"], *cells.bench["baselines"]) if each not in LEFT_OUT]
    columns = min(3, len(settings) + 1)
    lines = -(-(len(settings) + 1) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * lines))
    panels = figure.subplots(lines, columns, squeeze=False).flat
    shown: dict = {}
    for axis, setting in zip(panels, settings):
        shown |= _panel(axis, cells, setting, methods)
    for axis in panels[len(settings) :]:
        axis.axis("off")
    there = [method for method in methods if method in shown]
    labels = [cells.bench["names"][method] for method in there]
    panels[len(settings)].legend([shown[method] for method in there], labels, loc="center", fontsize=8, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(axis: Axes, cells: Measured, setting: str, methods: list[str]) -> dict:
    """What was drawn, by method, for the legend."""
    shown = {}
    for j, method in enumerate(methods):
        if (setting, method) not in cells.facts:
            continue
        paired = cells.compared(setting, method)
        place = cells.ms(setting, method, 1, "ms_embed", "ms_generate"), 100 * paired["paired_diff"]
        style: dict[str, Any] = {"color": colormaps["tab20"](j % 20), "markersize": 5, "linewidth": 0.9}
        style["marker"] = "s" if method in cells.bench["baselines"] else "o"
        shown[method] = axis.errorbar(*place, 100 * paired["paired_ci95"], **style)
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set(xscale="log", title=setting)
    axis.set(xlabel="ms a task, images to weights", ylabel="accuracy − best baseline, points")
    axis.xaxis.set_minor_formatter(NullFormatter())
    return shown
