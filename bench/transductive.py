"""``python -m bench transductive``: the photographs' tasks with the images to be classified known, unlabelled: another
track than that of ``photos`` -> transductive.csv, and what that says over its seeds -> transductive.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import BENCH, RESULTS, RUNS
from bench.machine import origin
from bench.options import ONE_SEED, PHOTO_SHOTS, RAW, Root, Runs, Seeds, Shots, Weights
from bench.photos import n_query
from bench.rows import add, pooled, read, summary
from bench.settings import bench_params, defaults, load_yaml, override
from bench.stages import run_stages
from bench.text import percent, table
from ltdi.meta_learning.model_selection import scores_on_new_tasks
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.methods.transductive.base import TransductiveMethod
from ltdi.methods.transductive.registry import TRANSDUCTIVE
from ltdi.methods.transductive.self_training import SelfTraining
from ltdi.store import write_text
from ltdi.tasks.base import Context
from ltdi.tasks.transductive_tasks import Transductive
from ltdi.trajectories.storage import load_sources, names
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.seeding import generator

N_WAY, A_CLASS, TO_CHOOSE = 5, 20, 200
PRESENT = {5: 1.0, 2: 0.3}
"""Of how many of the five classes there are images to be classified, and on what share of the tasks that is measured;
hyperparameters are chosen where all are there."""
BASELINES = ["simpleshot", "ridge", "logistic"]
AGAIN = "+"
"""Behind a method's name: with the unlabelled images, by ``SelfTraining``."""
NAMES = {"soft_k_means": "soft k-means", "bd_cspn": "BD-CSPN", "laplacian_shot": "LaplacianShot"}
ABOUT = """# Photographs whose images to be classified are known, unlabelled

Another track than [`photos.md`](photos.md): heads trained in the same way, but never from the meta-val domains
(`meta.refit`), because hyperparameters are chosen there with the trained method; and tasks of 5 classes in which the
20 images of each class that are asked are seen, without labels and in an order that says nothing, before the head is
made. *Inductive* columns do not look at them. "With them" is `SelfTraining`: a method's own head assigns them softly,
and the method generates again from the means that they join. Hyperparameters of every column were chosen on the
meta-val domains for the number of images, each on the same {to_choose} tasks. Accuracy in %; in brackets Lt-Di with
them − the column, paired, 95 % intervals over tasks, which share their images; of several seeds those of their mean.
{told}.

`python -m bench transductive --weights <safetensors file>|hub --seed 0 …`

"""
ABSENT = """
## Where images of two of the five classes alone are asked

Every method but the inductive ones takes it that all classes are there; here three are not. The same heads and
hyperparameters.

"""


def main(
    weights: Weights = "hub",
    n_shot: Shots = PHOTO_SHOTS,
    seed: Seeds = ONE_SEED,
    tasks: Annotated[int, typer.Option(help="Of each meta-test domain.")] = 1000,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    deterministic()
    for each_seed in seed:
        for shots in n_shot:
            changes = {"seed": each_seed, "tasks.n_shot": shots, "body.weights": weights, "data.root": str(root)}
            # those of the table are not needed, and their heads are most of the time
            changes |= {"method.baselines": BASELINES, "tasks.meta_test": 100, "tasks.n_query": n_query(shots)}
            preset = load_yaml(BENCH / "photos.yaml")
            changes |= {"meta.refit": False, "data.domains": with_unlabelled(preset["data.domains"])}
            params = override(defaults(), preset | changes)
            say(f"bench: transductive {N_WAY}w{shots}s seed {each_seed}")
            data = run_stages(params, runs, until="meta_train")
            add("transductive.csv", list(rows(data, params["data"]["domains"]["test"], shots, each_seed, tasks)))
            write_text(RESULTS / "transductive.md", markdown(read("transductive.csv")))


def with_unlabelled(domains: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What is learned from as it is; of meta-val and meta-test the domains whose classes have images enough to leave
    some unlabelled: those of characters have twenty."""
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
                hparams = " ".join(f"{key}={value}" for key, value in getattr(methods[name], "hparams", {}).items())
                yield cell | {
                    "method": name,
                    **summary(own),
                    "ahead": ahead,
                    "ahead_ci95": half,
                    "hyperparameters": hparams,
                }


def methods_of(data: Path, trained: str, baselines: list[str]) -> dict[str, Method]:
    """The run's own; then those that see what is asked, the trained one's last."""
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


def markdown(measured: pd.DataFrame) -> str:
    keys = ["tasks", "device", "commit"]
    told = (
        f"{n:.0f} tasks a row and seed, {where}, commit {of}"
        for n, where, of in measured[keys].drop_duplicates().values
    )
    there, absent = (_table(measured[measured.present == each]) for each in PRESENT)
    return ABOUT.format(to_choose=TO_CHOOSE, told="; ".join(told)) + there + ABSENT + absent


def _table(measured: pd.DataFrame) -> str:
    """A row a domain and number of images: a column a method, in brackets the paired difference."""
    head, lines = ["domain", "images a class", "seeds"], []
    methods = sorted(measured.method.unique(), key=lambda name: (name.endswith(AGAIN), name in NAMES, name))
    again = [name for name in methods if name.endswith(AGAIN)]
    own = next(name for name in again if not measured[measured.method == name].ahead.any())
    for (domain, n_shot), group in measured.groupby(["setting", "n_shot"]):
        cells = []
        for method in methods:
            found = group[group.method == method]
            half = pooled(found.ahead_ci95)
            paired = "" if method == own else f" ({percent(found.ahead.mean(), half, sign='+')})"
            cells.append(f"{100 * found.accuracy.mean():.2f}{paired}")
        lines.append([str(domain), str(n_shot), str(group.seed.nunique()), *cells])
    return table([*head, *map(_name, methods)], lines)


def _name(method: str) -> str:
    names = bench_params()["names"] | NAMES
    if method.endswith(AGAIN):
        return f"{names[method[:-1]]} with them"
    return names[method] if method in NAMES else f"{names[method]}, inductive"
