"""The methods of a finished run beside each other: the rows of its table, and which to use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdi.methods.common.trained import SCALE_SHOTS
from ltdi.store import read_json, read_table, read_tensors
from ltdi.store.schemas import PER_TASK
from ltdi.utils.metrics import mean_and_ci95

MARGIN = 4.0
"""Of an axis, in percent, so that a dot at its end is whole."""


@dataclass(frozen=True)
class Bar:
    """An interval on an axis, in percent of the axis' length."""

    low: float
    high: float
    value: float


@dataclass(frozen=True, eq=False)
class MethodRow:
    """A row of the table: weights from one source, over all meta-test tasks; ``difference`` is to the best baseline."""

    name: str
    own: bool
    scores: Tensor
    score: float
    ci95: float
    difference: float
    difference_ci95: float
    ms_1: float
    ms_64: float
    distance: float | None
    bar: Bar | None


def method_file(data: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return read_tensors(data / "model" / "methods" / f"{name}.safetensors", kind="method")


def heads_of(data: Path, metrics: dict[str, Any]) -> tuple[list[MethodRow], tuple[float, float]]:
    """The rows, best first, and the ends of their axis in percent."""
    table = read_table(data / "results" / "per_task.parquet", kind=PER_TASK).sort_values("task")
    scores = {name: torch.tensor(own.score.to_numpy()) for name, own in table.groupby("method", sort=False)}
    rows = {metrics["method"]: metrics} | metrics.get("baselines", {})
    beside = scores[metrics.get("best_baseline", metrics["method"])]
    bars, axis = bars_of([(row["score"], row["ci95"]) for row in rows.values()])
    heads = []
    for (name, row), bar in zip(rows.items(), bars):
        difference, ci95 = mean_and_ci95(scores[name] - beside)
        ms = row["ms_per_task"]
        heads.append(
            MethodRow(
                name=name,
                own=name == metrics["method"],
                scores=scores[name],
                score=row["score"],
                ci95=row["ci95"],
                difference=difference,
                difference_ci95=ci95,
                ms_1=ms["batch_1"],
                ms_64=ms["batch_64"],
                distance=row.get("weight_mse"),
                bar=bar,
            )
        )
    return sorted(heads, key=lambda head: -head.score), axis


def bars_of(
    values: Sequence[tuple[float, float]], *, near: float = 0.05
) -> tuple[list[Bar | None], tuple[float, float]]:
    """Values and half their intervals on one axis, and its ends in percent; none for values further than ``near`` below
    the best, beside which the others would all stand in one place."""
    least = max(value for value, _ in values) - near
    shown = [(value, half) for value, half in values if value >= least]
    low, high = min(value - half for value, half in shown), max(value + half for value, half in shown)

    def place(value: float) -> float:
        return MARGIN + (100 - 2 * MARGIN) * (value - low) / max(high - low, 1e-9)

    bars = [
        Bar(place(value - half), place(value + half), place(value)) if value >= least else None
        for value, half in values
    ]
    return bars, (100 * low, 100 * high)


def advice(data: Path, heads: list[MethodRow], metrics: dict[str, Any]) -> list[str]:
    """Which to use, by the paired differences and the times; where the generator is no better than a baseline."""
    best, method = heads[0], next(head for head in heads if head.own)
    level = [head for head in heads[1:] if not _is_ahead(best, head)]
    fastest = min([best, *level], key=lambda head: head.ms_1)
    if not level:
        lines = [f"{best.name} has the highest mean, and is ahead of every other by more than chance: take it."]
    else:
        lines = [
            f"{best.name} has the highest mean, and is not ahead beyond chance of {_and(level)}: of these take"
            f" {fastest.name}, which needs least time, {fastest.ms_1:.1f} ms a task."
        ]
    baseline = metrics.get("best_baseline")
    if baseline:
        lines += _beside_baseline(method, next(head for head in heads if head.name == baseline), data)
    return lines + _update_scale(data, method.name)


def _is_ahead(head: MethodRow, other: MethodRow) -> bool:
    difference, ci95 = mean_and_ci95(head.scores - other.scores)
    return difference > ci95


def _beside_baseline(method: MethodRow, baseline: MethodRow, data: Path) -> list[str]:
    better, worse = ((sign * (method.scores - baseline.scores) > 0).float().mean().item() for sign in (1, -1))
    seconds = read_json(data / "model" / "metrics.json")["seconds"]
    told = (
        f"{method.name} is {'ahead of' if _is_ahead(method, baseline) else 'not ahead beyond chance of'}"
        f" {baseline.name},"
        f" the best baseline: better in {better:.0%} of the tasks, worse in {worse:.0%}, the same in the rest."
    )
    return [
        told,
        f"{baseline.name} needs no meta-training ({seconds:.0f} s here, after the recorded tasks) and"
        f" {baseline.ms_1:.1f} ms a task instead of {method.ms_1:.1f}. It is the better choice where that counts more"
        " than the difference, and where your classes look like none of the meta-training ones: compare both on a few"
        " labelled tasks of your own.",
    ]


def _update_scale(data: Path, name: str) -> list[str]:
    """Name the update scale, which meta-val chose."""
    tensors, values = method_file(data, name)
    if "update_scale" not in tensors:
        return []
    update_scales = dict(zip(SCALE_SHOTS, tensors["update_scale"].tolist()))
    told = ", ".join(f"{value:g} with {n} known of a class" for n, value in update_scales.items())
    zero = (
        " At 0 its weights are the initialization's to the digit: take the initialization."
        if 0 in update_scales.values()
        else ""
    )
    return [f"Update scale of {name} from its initialization ({values['initialization']}), of meta-val: {told}.{zero}"]


def _and(heads: list[MethodRow]) -> str:
    return " and ".join([", ".join(head.name for head in heads[:-1]), heads[-1].name] if heads[1:] else [heads[0].name])
