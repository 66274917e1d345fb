"""``python -m bench photos``: Lt-Di on a pre-trained body and a mixture of domains, domain by domain -> photos.csv."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench import BENCH, RUNS
from bench.machine import origin
from bench.options import ONE_SEED, RAW, Root, Runs, Seeds
from bench.rows import add, compared, summary
from bench.settings import defaults, load_yaml, override
from bench.stages import run_stages, train_classes
from ltdi.console import say
from ltdi.store import read_json, read_table


def main(
    weights: Annotated[str, typer.Option(help="Of the body: a safetensors file in timm's keys, or hub.")] = "hub",
    n_shot: Annotated[list[int], typer.Option(help="May be repeated.")] = [1, 5],  # noqa: B006
    seed: Seeds = ONE_SEED,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    for each_seed in seed:
        for shots in n_shot:
            chosen: dict[str, Any] = {"seed": each_seed, "tasks.n_shot": shots}
            chosen |= {"body.weights": weights, "data.root": str(root)}
            params = override(defaults(), load_yaml(BENCH / "photos.yaml") | chosen)
            say(f"bench: photos {params['tasks']['n_way']}w{shots}s seed {each_seed}")
            add("photos.csv", rows(run_stages(params, runs), shots, each_seed))


def rows(data: Path, n_shot: int, seed: int) -> list[dict[str, Any]]:
    """Of a finished run, a row a meta-test domain and method; the method's beside the best control of the domain."""
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    tasks = read_table(data / "tasks" / "tasks.parquet")
    domain_of = tasks[tasks.split == "meta_test"].domain.reset_index(drop=True)
    table = read_table(data / "results" / "per_task.parquet")
    common = {"seed": seed, "n_shot": n_shot, "train_classes": train_classes(data), **origin()}
    found: list[dict[str, Any]] = []
    for domain, own in table.groupby(table.task.map(domain_of)):
        scores = {name: torch.tensor(each.sort_values("task").score.to_numpy()) for name, each in own.groupby("method")}
        controls = {name: scores[name] for name in metrics["controls"]}
        for name in (metrics["method"], *controls):
            row = common | {"setting": domain, "method": name, **summary(scores[name])}
            if name not in controls:
                row |= compared(scores[name], controls) | {"seconds_meta_train": round(chosen["seconds"], 1)}
            found.append(row)
    return found
