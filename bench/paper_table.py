"""The tables of ``python -m bench paper``: paper.csv and paper.md, regimes.csv and regimes.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench import paper_figures
from bench.text import percent, table
from ltdi.store import write_text
from ltdi.utils.metrics import mean_and_ci95

BOTH = ("lvdi", "ltdi")


def write(lines: pd.DataFrame, preset: Mapping[str, Any], results: Path) -> None:
    rows = pd.DataFrame(_rows(lines, preset))
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "paper.csv", rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(results / "paper.md", markdown(rows, preset))
    paper_figures.write(lines, preset, results)


def _rows(lines: pd.DataFrame, preset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line of paper.csv for every setting, seed, row and sampler: its means over tasks, and its differences from the
    linear map and from Lv-Di by the same sampler, paired over the tasks."""
    by = {key: own.set_index("task") for key, own in lines.groupby(["setting", "seed", "row", "sampler"], sort=False)}
    for (setting, seed, row, way), own in by.items():
        first = own.iloc[0]
        made = {"setting": setting, "seed": seed, "row": row, "sampler": way, "tasks": len(own)}
        made["accuracy"], made["ci95"] = _mean(own.score)
        made["weight_mse"], made["mse_ci95"] = _mean(own.weight_mse)
        for name, other in (("linear", ("weight_regression", "")), ("lvdi", ("lvdi", way))):
            beside = by.get((setting, seed, *other))
            if beside is not None and other[0] != row:
                made[f"over_{name}"], made[f"over_{name}_ci95"] = _mean(own.score - beside.score)
                made[f"mse_over_{name}"], made[f"mse_over_{name}_ci95"] = _mean(own.weight_mse - beside.weight_mse)
        trained = row in preset["rows"]
        made |= {key: first[key] if trained else np.nan for key in ("steps", "seconds", "flat")}
        yield made | {"device": first.device, "commit": first.commit}


def write_regimes(lines: pd.DataFrame, preset: Mapping[str, Any], results: Path) -> None:
    lines = lines.reset_index(drop=True)
    parts = lines.row.str.rpartition("/")
    rows = []
    for (regime, seed, way), own in lines.groupby([parts[0], "seed", "sampler"], sort=False):
        by = {method: each.set_index("task") for method, each in own.groupby(parts[2])}
        if len(by) < len(BOTH):
            continue
        ltdi, lvdi = by["ltdi"], by["lvdi"]
        row = {"regime": regime, "seed": seed, "sampler": way, "tasks": len(ltdi)}
        for name, each in by.items():
            row |= {name: each.score.mean(), f"{name}_mse": each.weight_mse.mean(), f"{name}_steps": each.steps.iloc[0]}
        row["paired_diff"], row["paired_ci95"] = _mean(ltdi.score - lvdi.score)
        row["mse_diff"], row["mse_ci95"] = _mean(ltdi.weight_mse - lvdi.weight_mse)
        rows.append(row | {"flat": ltdi.flat.all() and lvdi.flat.all(), "commit": ltdi.commit.iloc[0]})
    if rows:
        found = pd.DataFrame(rows)
        write_text(results / "regimes.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        write_text(results / "regimes.md", regimes_markdown(found))


def regimes_markdown(rows: pd.DataFrame) -> str:
    """A line a regime and sampler: both methods, and their difference paired over tasks."""
    seeds = ", ".join(map(str, sorted(rows.seed.unique())))
    text = (
        "# Where is Lt-Di above Lv-Di?\n\n"
        "`python -m bench paper --regimes`: glyphs 5w1s, what differs from `paper.md` in the first column; accuracy in"
        f" percent, weight MSE in 1e-4, paired over {rows.tasks.iloc[0]} tasks a seed, ± the 95 % interval;"
        f" seeds {seeds}. Rows: `regimes.csv`.\n\n"
    )
    lines: list[list[str]] = []
    for (regime, way), own in rows.groupby(["regime", "sampler"], sort=False):
        cells = [str(regime), str(way), f"{100 * own.lvdi.mean():.2f}", f"{100 * own.ltdi.mean():.2f}"]
        cells += [_percent(own, "paired_diff", "paired_ci95", "+"), _scaled(own, "mse_diff", "mse_ci95", "+")]
        lines.append([*cells, f"{own.lvdi_steps.mean():.0f} / {own.ltdi_steps.mean():.0f}"])
    head = ["regime", "sampler", "Lv-Di", "Lt-Di", "Lt-Di − Lv-Di", "its weight MSE", "steps"]
    return text + table(head, lines)


def _mean(values: pd.Series) -> tuple[float, float]:
    return mean_and_ci95(torch.tensor(values.to_numpy()))


def markdown(rows: pd.DataFrame, preset: Mapping[str, Any]) -> str:
    """A table a setting, best first: the means over seeds, with the interval of that mean."""
    flat = preset["flat"]
    text = (
        "# The paper's own form: from noise, on recorded weights alone\n\n"
        "`make paper`. Twenty denoising steps from Gaussian noise, trained on recorded weights without a query loss;"
        " every row on the same features and streamed trajectories. A training is measured on meta-val every"
        f" {flat['every']} steps and ends when the best of the last {flat['patience']} measures is less than"
        f" {100 * flat['tolerance']:g} points above the best before, or after {flat['most']} steps; its best state on"
        " meta-val is kept. CPU seconds hold the collection. Accuracy in"
        " percent of meta-test queries, weight MSE to the trained heads in 1e-4; differences are paired over tasks;"
        " ± is the 95 % interval of the mean over seeds. What a chain is read by stands behind its name. Rows:"
        " `paper.csv`.\n"
    )
    for setting, own in rows.groupby("setting", sort=False):
        seeds, tasks = sorted(own.seed.unique()), own.tasks.iloc[0]
        text += (
            f"\n## {setting}\n\nSeeds {', '.join(map(str, seeds))}, {tasks} tasks each;"
            f" {', '.join(sorted(own.device.unique()))}; commit {', '.join(sorted(own.commit.unique()))}.\n\n"
        )
        lines = []
        for (row, way), group in own.groupby(["row", "sampler"], sort=False):
            name = preset["names"][row] + (f" ({way})" if way else "")
            reported = preset["reported"].get(setting, {}).get(row, "")
            best = (
                ""
                if pd.isna(group.steps.iloc[0])
                else f"{group.steps.mean():.0f}{'' if group.flat.all() else ', rising'}"
            )
            seconds = "" if not best else f"{group.seconds.mean():.0f}"
            cells = [name, str(group.seed.nunique()), _percent(group, "accuracy", "ci95")]
            cells += [_scaled(group, "weight_mse", "mse_ci95")]
            cells += [
                _percent(group, "over_linear", "over_linear_ci95", "+"),
                _percent(group, "over_lvdi", "over_lvdi_ci95", "+"),
            ]
            cells += [_scaled(group, "mse_over_lvdi", "mse_over_lvdi_ci95", "+"), best, seconds, str(reported)]
            lines.append((-group.accuracy.mean(), cells))
        head = ["weights", "seeds", "accuracy", "weight MSE", "− linear map", "− Lv-Di, same sampler", "its MSE"]
        text += table(
            [*head, "steps", "CPU s", "*reported*"], [cells for _, cells in sorted(lines, key=lambda each: each[0])]
        )
    return text


def _half(group: pd.DataFrame, ci95: str) -> float:
    """Of the mean over seeds, whose tasks are drawn apart."""
    return float((group[ci95] ** 2).sum() ** 0.5 / len(group))


def _percent(group: pd.DataFrame, value: str, ci95: str, sign: str = "") -> str:
    if value not in group or group[value].isna().any():
        return ""
    return percent(group[value].mean(), _half(group, ci95), sign=sign)


def _scaled(group: pd.DataFrame, value: str, ci95: str, sign: str = "") -> str:
    if value not in group or group[value].isna().any():
        return ""
    return f"{1e4 * group[value].mean():{sign}.2f} ± {1e4 * _half(group, ci95):.2f}"
