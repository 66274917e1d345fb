"""``python -m bench transductive``: the photographs' tasks with unlabelled queries, another track than that of
``photos`` -> transductive.csv, transductive.md."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench import RUNS
from bench.harness import options as opt
from bench.harness import report
from bench.harness.rows import add, origin, summary
from bench.harness.settings import conf
from bench.harness.stages import run_stages
from bench.tables.photos import SHOTS, n_query, preset
from ltdi.meta_learning.model_selection import scores_on_new_tasks
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.methods.transductive.base import TransductiveMethod
from ltdi.methods.transductive.registry import TRANSDUCTIVE
from ltdi.methods.transductive.self_training import SelfTraining
from ltdi.tasks.base import Context
from ltdi.tasks.transductive_tasks import Transductive
from ltdi.trajectories.storage import load_sources, names
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.seeding import generator

N_WAY, A_CLASS, TO_CHOOSE = 5, 20, 200
PRESENT = {5: 1.0, 2: 0.3}
"""Of how many of the five classes there are queries, and on what share of the tasks that is measured; hyperparameters
are chosen where all are there."""
BASELINES = ["simpleshot", "ridge", "logistic"]
AGAIN = "+"
"""Suffix of a method's name: with the unlabelled images, by ``SelfTraining``."""


def main(
    weights: opt.Weights = "hub",
    n_shot: opt.Shots = SHOTS,
    seed: opt.Seeds = opt.ONE_SEED,
    tasks: Annotated[int, typer.Option(help="Of each meta-test domain.")] = 1000,
    root: opt.Root = opt.RAW,
    runs: opt.Runs = RUNS,
) -> None:
    deterministic()
    for each, shots in product(seed, n_shot):
        # the photographs' other baselines are not needed, and their heads are most of the time
        changes = {"method.baselines": BASELINES, "tasks.meta_test": 100, "tasks.n_query": n_query(shots)}
        changes |= {"meta.refit": False, "data.domains": with_unlabelled(conf("photos")["data.domains"])}
        params = preset(weights, root, each, shots, changes)
        say(f"bench: transductive {N_WAY}w{shots}s seed {each}")
        data = run_stages(params, runs, until="meta_train")
        add("transductive.csv", list(rows(data, params["data"]["domains"]["test"], shots, each, tasks)))
        report.write("transductive.md")


def with_unlabelled(domains: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Meta-training as it is; of meta-val and meta-test the domains whose classes have images enough to leave some
    unlabelled: those of characters have twenty."""
    few = ("omniglot", "glyphs")
    chosen = {split: [each for each in domains[split] if not each.startswith(few)] for split in ("val", "test")}
    return {"train": domains["train"], **chosen}


def rows(data: Path, domains: list[str], n_shot: int, seed: int, n_tasks: int) -> Iterator[dict[str, Any]]:
    """Of a trained run, a row a meta-test domain, number of classes that are there, and method."""
    sources = load_sources(data, splits=["meta_val", "meta_test"], device=device())
    trained, *baselines = names(data)[0], *names(data)[1]
    methods = methods_of(data, trained, baselines)
    chosen = {"n_tasks": TO_CHOOSE, "n_way": N_WAY, "n_shot": n_shot, "seed": seed}
    for method in methods.values():
        if isinstance(method, TransductiveMethod):
            method.choose(Transductive(sources["meta_val"], A_CLASS), **chosen)
    for domain, part in zip(domains, sources["meta_test"].parts, strict=True):
        for present, share in PRESENT.items():
            source = Transductive(part, A_CLASS, None if present == N_WAY else present)
            scores = scored(methods, source, round(share * n_tasks), n_shot, seed)
            cell = {"setting": domain, "n_shot": n_shot, "present": present, "seed": seed, **origin()}
            for name, own in scores.items():
                ahead, half = mean_and_ci95(scores[trained + AGAIN] - own)
                found = getattr(methods[name], "hparams", {})
                row = cell | {"method": name, **summary(own), "ahead": ahead, "ahead_ci95": half}
                yield row | {"hyperparameters": " ".join(f"{key}={value}" for key, value in found.items())}


def methods_of(data: Path, trained: str, baselines: list[str]) -> dict[str, Method]:
    """The run's own; then those that see the queries, the trained one's last."""
    folder = data / "model" / "methods"
    found: dict[str, Method] = {name: read_method(folder, name, None, device()) for name in (trained, *baselines)}
    initialization = found[trained].initialization
    seeing: dict[str, Method] = {name: baseline(initialization) for name, baseline in TRANSDUCTIVE.items()}
    again = ("ridge", trained) if "ridge" in baselines else (trained,)
    return found | seeing | {name + AGAIN: SelfTraining(found[name]) for name in again}


def scored(
    methods: Mapping[str, Method], source: Transductive, n_tasks: int, n_shot: int, seed: int
) -> dict[str, Tensor]:
    """The score of each of the same tasks (M,) by method."""

    def of_each(context: Context) -> list[Tensor]:
        return [each.generate(context, generator=generator(seed, "noise")) for each in methods.values()]

    learner = next(iter(methods.values())).initialization.learner
    stream = generator(seed, "transductive test", n_shot)
    sizes = {"n_tasks": n_tasks, "n_way": N_WAY, "n_shot": n_shot}
    with torch.no_grad():
        return dict(zip(methods, scores_on_new_tasks(learner, source, of_each, stream=stream, **sizes), strict=True))
