"""``python -m bench run``: measure variants of bench/params.yaml -> runs.csv, choices.csv, beside.csv."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import BASELINE, RUNS
from bench.audits import audit_rows
from bench.machine import origin
from bench.options import LTDI, ONE_SEED, RAW, Base, Budget, Root, Runs, Seeds, Settings
from bench.rows import add, compared, scores_by_method, summary
from bench.settings import bench_params, prefix_of, variant_params
from bench.stages import run_stages, train_classes
from ltdi.store import read_json, read_table
from ltdi.utils.console import say
from ltdi.utils.metrics import mean_and_ci95


def main(
    setting: Settings,
    variant: Annotated[list[str], typer.Option(help="One of bench/params.yaml, or all; may be repeated.")] = LTDI,
    base: Base = "defaults",
    seed: Seeds = ONE_SEED,
    train_on_val: Annotated[bool, typer.Option(help="Train on the meta-val classes too (final rows).")] = False,
    budget: Budget = "cpu",
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    chosen: dict[str, Any] = {"base": base, "budget": budget, "root": root, "train_on_val": train_on_val}
    variants = list(bench_params()["variants"]) if variant == ["all"] else variant
    for each_seed, where, name in product(seed, setting, variants):
        called = prefix_of(base) + name
        note = " (meta-val classes train too)" if train_on_val else ""
        say(f"bench: {where} {called} seed {each_seed}{note}")
        # what a variant changes is told from chance only beside Lt-Di on the same tasks
        both = (variant_params(where, each, seed=each_seed, **chosen) for each in (name, "ltdi"))
        own, ltdi = (run_stages(params, runs) for params in both)
        cell = {"setting": where, "budget": budget, "seed": each_seed}
        _write(own, None if name == "ltdi" else ltdi, cell, called)


def _write(data: Path, ltdi: Path | None, cell: dict[str, Any], variant: str) -> None:
    """A run's rows: what it chose by, on meta-val, and what it reports, on meta-test, beside Lt-Di and the
    baselines."""
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    scores, name = scores_by_method(data), metrics["method"]
    common = cell | {"train_classes": train_classes(data), **origin()}
    own = common | {"method": name, "variant": variant, "seconds_meta_train": round(chosen["seconds"], 1)}
    baselines = {each: scores[each] for each in metrics["baselines"]}
    rows = [own | summary(scores[name]) | _times(metrics) | compared(scores[name], baselines)]
    for each, values in metrics["baselines"].items():
        rows.append(common | {"method": each, "variant": BASELINE} | summary(scores[each]) | _times(values))
    ceiling = {"accuracy": metrics["ceiling"]["score"], "ci95": metrics["ceiling"]["ci95"]}
    rows.append(common | {"method": "ceiling", "variant": BASELINE, "tasks": len(scores[name]), **ceiling})
    if ltdi:
        mean, ci95 = mean_and_ci95(scores[name] - scores_by_method(ltdi)["ltdi"])
        pair = {"tasks": len(scores[name]), "beside": "ltdi", "paired_diff": mean, "paired_ci95": ci95}
        add("beside.csv", [own | pair])
    add("runs.csv", rows)
    add("audit.csv", audit_rows(data, cell | {"method": name, "variant": variant}))
    add("choices.csv", [own | _choice(data, chosen)])


def _times(metrics: dict[str, Any]) -> dict[str, float]:
    times = metrics["ms_per_task"]
    return {"ms_batch_1": times["batch_1"], "ms_batch_64": times["batch_64"]}


def _choice(data: Path, chosen: dict[str, Any]) -> dict[str, Any]:
    tasks = read_table(data / "tasks" / "tasks.parquet")
    return {
        "tasks": int((tasks.split == "meta_val").sum()),
        "val_accuracy": chosen["val_score"],
        "val_best_baseline": chosen["best_baseline"],
        "val_paired_diff": chosen["paired"]["difference"],
        "val_paired_ci95": chosen["paired"]["ci95"],
    }
