"""``python -m bench photos``: Lt-Di on a pre-trained body and a mixture of domains, domain by domain -> photos.csv,
.md; ``photo-parts``: each part of that preset, on meta-val -> photo_parts.md; ``photo-refit``: the refit on train +
validation, on domains of its meta-training and meta-val held out in turn -> photo_refit.md."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import RESULTS, RUNS
from bench.harness import report
from bench.harness.rows import add, compared, origin, summary
from bench.harness.settings import (
    ONE_SEED,
    RAW,
    Root,
    Runs,
    Seeds,
    Shots,
    Weights,
    bench_params,
    conf,
    defaults,
    override,
)
from bench.harness.stages import run_stages, train_classes
from ltdi.store import read_json, read_table, write_text
from ltdi.utils.console import say
from ltdi.utils.metrics import best_and_paired, mean_and_ci95

SHOTS, REFIT_SHOTS = [1, 5, 10], [1, 10]


def n_query(n_shot: int) -> int:
    """15, or what is left of the 20 images that Omniglot has of a class."""
    return min(15, 20 - n_shot)


def preset(weights: str, root: Path, seed: int, n_shot: int, *changes: Mapping[str, Any]) -> dict[str, Any]:
    """params.yaml with photos.yaml, then ``changes``."""
    merged = conf("photos") | {"seed": seed, "tasks.n_shot": n_shot, "body.weights": weights, "data.root": str(root)}
    for each in changes:
        merged |= each
    return override(defaults(), merged)


def photos(
    weights: Weights = "hub", n_shot: Shots = SHOTS, seed: Seeds = ONE_SEED, root: Root = RAW, runs: Runs = RUNS
) -> None:
    for each, shots in product(seed, n_shot):
        params = preset(weights, root, each, shots, {"tasks.n_query": n_query(shots)})
        say(f"bench: photos {params['tasks']['n_way']}w{shots}s seed {each}")
        add("photos.csv", rows(run_stages(params, runs), shots, each, refit=params["meta"]["refit"]))
        report.write("photos.md")


def rows(data: Path, n_shot: int, seed: int, *, refit: bool) -> list[dict[str, Any]]:
    """Of a finished run, a row a meta-test domain and method; the method's beside the best baseline of the domain."""
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    common = {"seed": seed, "n_shot": n_shot, "train_classes": train_classes(data, refit=refit), **origin()}
    found: list[dict[str, Any]] = []
    for domain, scores in by_domain(data).items():
        baselines = {name: scores[name] for name in metrics["baselines"]}
        for name in (metrics["method"], *baselines):
            row = common | {"setting": domain, "method": name, **summary(scores[name])}
            if name not in baselines:
                row |= compared(scores[name], baselines) | {"seconds_meta_train": round(chosen["seconds"], 1)}
                difference, half = mean_and_ci95(scores[name] - baselines[chosen["best_baseline"]])
                row |= {"chosen_baseline": chosen["best_baseline"], "chosen_diff": difference, "chosen_ci95": half}
            found.append(row)
    return found


def by_domain(data: Path) -> dict[str, dict[str, Tensor]]:
    """Of a finished run, the scores (M,) of each method on the tasks of each meta-test domain."""
    tasks = read_table(data / "tasks" / "tasks.parquet")
    domain_of = tasks[tasks.split == "meta_test"].domain.reset_index(drop=True)
    scored = read_table(data / "results" / "per_task.parquet").sort_values("task")
    return {
        str(domain): {str(name): torch.tensor(each.score.to_numpy()) for name, each in own.groupby("method")}
        for domain, own in scored.groupby(scored.task.map(domain_of))
    }


def parts(weights: Weights = "hub", n_shot: int = 1, seed: int = 0, root: Root = RAW, runs: Runs = RUNS) -> None:
    plan, found = conf("photo_parts"), {}
    about = {"seed": seed, "n_shot": n_shot, "tasks": plan["common"]["tasks.meta_val"], **origin()}
    for part, changes in plan["parts"].items():
        say(f"bench: photos, {part}")
        data = run_stages(preset(weights, root, seed, n_shot, plan["common"], changes), runs, until="meta_train")
        found[part] = read_json(data / "model" / "metrics.json")
        write_text(RESULTS / "photo_parts.md", report.render("photo_parts", found=found, **about))


def refit(
    weights: Weights = "hub",
    n_shot: Shots = REFIT_SHOTS,
    seed: int = 0,
    tasks: int = 2000,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    plan, lines = conf("photo_refit"), []
    for (held_out, domains), shots in product(plan["held_out"].items(), n_shot):
        found: list[dict[str, dict[str, Tensor]]] = []
        for again in (False, True):
            say(f"bench: photos, {held_out} held out, {shots} images, {'with' if again else 'without'} refit")
            changes = {"data.domains": domains, "meta.refit": again, "tasks.n_query": n_query(shots)}
            params = preset(weights, root, seed, shots, plan["common"], {"tasks.meta_test": tasks}, changes)
            found.append(by_domain(run_stages(params, runs)))
        for domain in found[0]:
            method = params["method"]["name"]
            lines.append([held_out, domain, str(shots), *refit_cells(found[0][domain], found[1][domain], method)])
        about = {"tasks": tasks // len(domains["test"]), "seed": seed, **origin()}
        write_text(RESULTS / "photo_refit.md", report.render("photo_refit", lines=lines, **about))


def refit_cells(without: Mapping[str, Tensor], again: Mapping[str, Tensor], method: str) -> list[str]:
    """The best baseline of scores (M,) by method, the trained method − it, and the difference that the refit makes. A
    baseline that learns from classes is that of the same run."""
    columns: list[str] = []
    for scores in (without, again):
        best, paired = best_and_paired(scores[method], {name: own for name, own in scores.items() if name != method})
        columns.append(report.percent(paired["difference"], paired["ci95"], "+"))
    names = bench_params()["names"]
    return [names.get(best, best), *columns, report.percent(*mean_and_ci95(again[method] - without[method]), "+")]
