"""``python -m bench backbones``: the paper's methods on other bodies, its Tables 7 and 8 -> backbones.csv, .md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from bench import RESULTS, RUNS
from bench.machine import origin
from bench.options import ONE_SEED, RAW, Root, Runs, Seeds
from bench.rows import add, compared, pooled, read, scores_by_method, summary
from bench.settings import bench_params, cell_params, override, pick
from bench.stages import run_stages
from bench.text import percent, table
from ltdi.store import read_json, write_text
from ltdi.utils.console import say

SOURCE = "backbones.csv"


def main(
    body: Annotated[list[str] | None, typer.Option(help="Of bench/params.yaml; all where none is named.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="May be repeated; both where none is named.")] = None,
    seed: Seeds = ONE_SEED,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    bench = bench_params()
    plan = bench["backbones"]
    for where in setting or plan["settings"]:
        for name in body or plan["bodies"]:
            for each in seed:
                say(f"bench: {where} on {name} seed {each}")
                cell = {"setting": where, "body": name, "seed": each}
                add(SOURCE, _rows(bench, cell, root, runs))
    write_text(RESULTS / "backbones.md", markdown(read(SOURCE), bench))
    say(f"wrote {RESULTS / 'backbones.md'}")


def _rows(bench: dict[str, Any], cell: dict[str, Any], root: Path, runs: Path) -> list[dict[str, Any]]:
    """A row a method and baseline of one body; a method's beside the best baseline on the same tasks."""
    plan, found = bench["backbones"], []
    changes = plan["shared"] | pick(plan, "bodies", cell["body"]) | {"data.root": str(root), "seed": cell["seed"]}
    baselines: dict[str, torch.Tensor] = {}
    for method in ("baselines", *plan["methods"]):
        params = cell_params(bench | {"baselines": plan["baselines"]}, cell["setting"], method, _budget(bench))
        data = run_stages(override(params, changes), runs)
        scores = scores_by_method(data)
        if method == "baselines":
            baselines = scores
            found += [cell | {"method": name} | summary(own) | origin() for name, own in scores.items()]
            continue
        seconds = round(read_json(data / "model" / "metrics.json")["seconds"], 1)
        own = scores[method]
        row = cell | {"method": method, "seconds_meta_train": seconds} | summary(own) | compared(own, baselines)
        found.append(row | origin())
    return found


def _budget(bench: Mapping[str, Any]) -> dict[str, Any]:
    return pick(bench, "budgets", bench["backbones"]["budget"])


def markdown(rows: pd.DataFrame, bench: Mapping[str, Any]) -> str:
    """A table a setting: a line a method, a column a body, after the bar what the paper reports."""
    plan = bench["backbones"]
    shared = plan["shared"]
    text = (
        "# The paper's methods on other bodies (Tables 7 and 8), accuracy in percent\n\n"
        f"The bodies are trained here on the meta-training classes alone, {shared['body.steps']} steps of"
        f" {shared['body.classes_a_batch']} classes × 4 images of 32 to 48 pixels (the paper does not say how its are);"
        f" their features are brought to their first {shared['learner.projection']} principal components. Budget:"
        f" {plan['budget']}. ± is the 95 % interval over tasks; in brackets the paired difference from the best"
        f" baseline"
        " of the column, and which that is. After the bar: reported by the paper, on other bodies. Command:"
        f" `python -m bench backbones`. Rows: `{SOURCE}`.\n"
    )
    for setting, own in rows.groupby("setting", sort=False):
        bodies = [name for name in plan["bodies"] if name in set(own.body)]
        lines = [_line(own, str(setting), method, bodies, bench) for method in (*plan["methods"], *plan["baselines"])]
        seeds, tasks = (", ".join(map(str, sorted(set(own[key])))) for key in ("seed", "tasks"))
        text += f"\n## {setting}\n\nMeta-test tasks a seed: {tasks}; seeds {seeds}; machine: {own.device.iloc[0]}.\n\n"
        text += table(["", *bodies], lines)
    return text


def _line(rows: pd.DataFrame, setting: str, method: str, bodies: list[str], bench: Mapping[str, Any]) -> list[str]:
    reported, cells = bench["backbones"]["reported"][setting], []
    for body in bodies:
        own = rows[(rows.method == method) & (rows.body == body)]
        if own.empty:
            cells.append("missing")
            continue
        half = pooled(own.ci95)
        cell = percent(own.accuracy.mean(), half)
        if own.best_baseline.notna().all():
            half = pooled(own.paired_ci95)
            best = "/".join(sorted(set(own.best_baseline)))
            cell += f" ({percent(own.paired_diff.mean(), half, sign='+')}, {best})"
        said = reported.get(body, {}).get(method)
        cells.append(cell + (f" \\| {said:g}" if said is not None else ""))
    return [bench["names"][method], *cells]
