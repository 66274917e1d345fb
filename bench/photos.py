"""``python -m bench photos``: Lt-Di on a pre-trained body and a mixture of domains, domain by domain -> photos.csv, and
what that says over its seeds -> photos.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import BENCH, RESULTS, RUNS
from bench.machine import origin
from bench.options import ONE_SEED, PHOTO_SHOTS, RAW, Root, Runs, Seeds, Shots, Weights
from bench.rows import add, compared, pooled, read, summary
from bench.settings import bench_params, defaults, load_yaml, override
from bench.stages import run_stages, train_classes
from bench.text import percent, table
from ltdi.store import read_json, read_table, write_text
from ltdi.utils.console import say
from ltdi.utils.metrics import mean_and_ci95

ABOUT = """# Photographs

A frozen EfficientNet-lite0 of ImageNet at 128 px; heads meta-trained and chosen on the domains of
[`photos.yaml`](../photos.yaml), of which the rows' own are none, and with `meta.refit` trained once more on all of
them, the choices kept. Accuracy in %, paired over tasks with the best baseline of the row, which is picked seed by seed
by its accuracy on these very tasks, and with the baseline that is the best on meta-val, which a user could pick; 95 %
intervals over tasks, which share their images; of several seeds those of their
mean. 5 ways, {told}.

"""


def main(
    weights: Weights = "hub",
    n_shot: Shots = PHOTO_SHOTS,
    seed: Seeds = ONE_SEED,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    for each_seed in seed:
        for shots in n_shot:
            chosen: dict[str, Any] = {"seed": each_seed, "tasks.n_shot": shots, "tasks.n_query": n_query(shots)}
            chosen |= {"body.weights": weights, "data.root": str(root)}
            params = override(defaults(), load_yaml(BENCH / "photos.yaml") | chosen)
            say(f"bench: photos {params['tasks']['n_way']}w{shots}s seed {each_seed}")
            add("photos.csv", rows(run_stages(params, runs), shots, each_seed, refit=params["meta"]["refit"]))
            write_text(RESULTS / "photos.md", markdown(read("photos.csv")))


def n_query(n_shot: int) -> int:
    """15, or what is left of the 20 images that Omniglot has of a class."""
    return min(15, 20 - n_shot)


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


def markdown(measured: pd.DataFrame) -> str:
    """A row a meta-test domain and number of images: every method's accuracy, and the trained one's − two baselines',
    over the seeds."""
    names = bench_params()["names"]
    own = measured[measured.best_baseline.notna()]
    methods = [*own.method.unique(), *measured[measured.best_baseline.isna()].method.unique()]
    lines = []
    for (setting, n_shot), group in measured.groupby(["setting", "n_shot"]):
        trained = own[(own.setting == setting) & (own.n_shot == n_shot)]
        against = [*_against(trained, "best", "paired", names), *_against(trained, "chosen", "chosen", names)]
        scores = (group[group.method == method] for method in methods)
        cells = [f"{100 * each.accuracy.mean():.2f}" if len(each) else "" for each in scores]
        seeds = str(trained.seed.nunique())
        lines.append([str(setting), str(n_shot), seeds, *cells, *against])
    head = ["domain", "images a class", "seeds", *(names.get(each, each) for each in methods)]
    head += ["best baseline", "paired", "best on meta-val", "paired"]
    keys = ["tasks", "device", "commit"]
    told = (
        f"{n:.0f} tasks a row and seed, {device}, commit {of}" for n, device, of in own[keys].drop_duplicates().values
    )
    return ABOUT.format(told="; ".join(told)) + table(head, lines)


def _against(trained: pd.DataFrame, baseline: str, columns: str, names: Mapping[str, str]) -> list[str]:
    """Which baseline of each seed, and how far the trained method is ahead of it; nothing where a row does not say."""
    said = trained[f"{baseline}_baseline"]
    if said.isna().any():
        return ["", ""]
    difference = percent(trained[f"{columns}_diff"].mean(), pooled(trained[f"{columns}_ci95"]), sign="+")
    return [" / ".join(names.get(each, each) for each in said.unique()), difference]
