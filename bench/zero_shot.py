"""``python -m bench zero-shot``: heads from names on a pre-trained body, learned from the rows of its own classifier ->
bench/results/zero_shot.md.

Tiny-ImageNet's classes are split anew by every seed: 50 to choose on, 50 to test on; of the body's 1,000 rows those of
both are left out. CIFAR-10 is the second test. What is chosen is chosen on the first 50.
"""

import statistics
import time
import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench import BENCH
from bench.machine import origin
from bench.settings import defaults
from bench.text import percent, table
from ltdi.bodies import pretrained_body
from ltdi.bodies.embedding import embed
from ltdi.console import say
from ltdi.datasets import read_images
from ltdi.described import DescribedClasses, DescribedTasks, rows_as_features
from ltdi.methods import CONTROLS, build
from ltdi.methods.base import Method, scores
from ltdi.methods.setup import Denoiser, Diffusion, Meta, Setup
from ltdi.metrics import mean_and_ci95
from ltdi.provenance import name_of
from ltdi.scenarios.zero_shot import ZeroShot, known_rows
from ltdi.seeding import generator
from ltdi.starts import Start
from ltdi.starts.closed_form import linear_classifier, prototype_weights
from ltdi.store import Cache, write_text
from ltdi.tasks import batches
from ltdi.texts import embed_names, read_descriptions
from ltdi.training import Training
from ltdi.trajectories import Trajectories, collect

BODY = {"name": "timm/tf_efficientnet_lite0", "image_size": 128, "filters": 0}
OF_NAMES = ("nearest_name", "softmax_rows", "text_ridge", "eszsl", "conse")
GENERATORS = ("ltdi", "lvdi", "mcdi", "weight_flow", "meta_hypernetwork", "icis")
META: dict[str, Any] = {
    **{"n_way": 50, "min_shot": 1, "max_shot": 1, "new_tasks": 2, "recorded_tasks": 2, "query_images": 1},
    **{"query_loss": 1.0, "weight_loss": 0.1, "inner_steps": 1, "inner_optimizer": "sgd", "inner_lr": 0.05},
}
COLLECTED: dict[str, Any] = {"optimizer": "adam", "lr": 1e-2, "steps": 3, "length": 4, "sam": 0.0, "augment": False}
RECORDED, LR, EMA, N_QUERY, N_TASKS = 64, 1.5e-3, 0.99, 10, 50
SHUFFLES = (1, 3, 7, 9)

Split = dict[str, DescribedTasks]


def main(
    tiny: Annotated[Path, typer.Option(help="A zip that holds train/<wnid>/*.")],
    cifar: Annotated[Path, typer.Option(help="A zip that holds test/<class>/*.")],
    body: Annotated[Path, typer.Option(help="tf_efficientnet_lite0's weights in timm's keys.")],
    classes: Annotated[Path, typer.Option(help="A wnid, a tab and a name for each row of its classifier.")],
    encoder: Annotated[str, typer.Option(help="A text encoder: a folder, or the hub's name of one.")],
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    images: Annotated[int, typer.Option(help="Of a class, the first half for the ceiling, the others asked.")] = 60,
    steps: Annotated[int, typer.Option(help="Of meta-training.")] = 400,
    prompts: Annotated[str, typer.Option(help="A set of ltdi/prompts.json.")] = "photos",
) -> None:
    torch.manual_seed(0)
    knobs = {"classes": classes, "classifier": body, "encoder": encoder, "prompts": prompts}
    features = {"tiny": _features(tiny, "train", images, body), "cifar": _features(cifar, "test", 5 * images, body)}
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for each in seed:
        _measure(each, features, knobs, steps, found)
        command = (
            "python -m bench zero-shot --tiny … --cifar … --body … --classes … --encoder …"
            f" {' '.join(f'--seed {done}' for done in seed[: seed.index(each) + 1])} --images {images} --steps {steps}"
        )
        write_text(BENCH / "results" / "zero_shot.md", _text(found, command, seed.index(each) + 1))


def _features(file: Path, folder: str, images: int, body: Path) -> tuple[list[str], Tensor]:
    """The classes of a zip, and features (C, images, F) of their first images."""
    by_class: dict[str, list[zipfile.Path]] = defaultdict(list)
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if parts[0] == folder and len(parts) == 3 and parts[2] and len(by_class[parts[1]]) < images:
                by_class[parts[1]].append(zipfile.Path(archive, name))
        names, cache = sorted(by_class), Cache("features")
        size = 64 if folder == "train" else 32
        network, parts_of = pretrained_body(BODY | {"weights": body}, 3), []
        inputs = (names, file.stat().st_size, images, size, BODY, network.state_dict())
        key = name_of("bench names", *inputs, code=("ltdi.bodies.embedding", type(network).__module__))
        if kept := cache.find(key):
            return names, kept[1]["features"]
        for j, name in enumerate(names):
            parts_of.append(embed(network, read_images(by_class[name], mode="RGB", size=size), batch=100))
            say(f"{file.name}: {j + 1} of {len(names)} classes")
    cache.keep(key, {"features": torch.stack(parts_of)}, {})
    return names, torch.stack(parts_of)


def _measure(seed: int, features: dict[str, Any], knobs: dict[str, Any], steps: int, found: dict) -> None:
    """All methods of one seed, into ``found``: test set and column -> method -> a value a task, seed by seed."""
    split, ceilings = _split(seed, features, knobs)
    # of the normalisations the best on the classes to choose on
    learner = {"name": "linear_head", "normalise": "centred", "projection": None}
    start, seen = ZeroShot().begin(split, learner, "softmax_rows", seed=seed)
    assert seen is not None
    split = {name: source.through(seen) for name, source in split.items()}
    numbers = torch.arange(len(split["meta_train"]))
    recorded = collect(start, split["meta_train"], numbers, fit_on="rows", seed=seed, **COLLECTED)
    trajectories, setup = Trajectories.of(recorded.points), _setup(split)
    for name in (*OF_NAMES, *GENERATORS):
        own = defaults()["methods"][name]
        method = build(name, start, setup, own, seed=seed)
        method.prepare(split["meta_train"], trajectories, split["meta_val"])
        if name in GENERATORS:
            training = Training(method, lr=LR, steps=steps, ema=EMA)
            for _ in method.meta_train(training, split["meta_train"], trajectories, seed=seed):
                pass
            method.eval().load_state_dict(training.average)
            method.finish(split["meta_val"], seed=seed)
        for test in ("tiny", "cifar"):
            found[test][name].append(_scores(method, split[test], seed))
            shuffled = [_scores(method, _shuffled(split[test], by), seed) for by in SHUFFLES]
            found[f"{test} shuffled"][name].append(torch.cat(shuffled))
        found["ms"][name].append(_milliseconds(method, split["cifar"], seed))
        told = getattr(method, "strength", None)
        say(
            f"seed {seed}, {name}: Tiny-ImageNet {found['tiny'][name][-1].mean():.4f}, CIFAR-10"
            f" {found['cifar'][name][-1].mean():.4f}{'' if told is None else f', strength {told[0]:.2f}'}"
        )
    for test, means in ceilings.items():
        found[test]["ceiling"].append(_ceiling(start, seen(means).mean(1), split[test]))


def _split(seed: int, features: dict[str, Any], knobs: dict[str, Any]) -> tuple[Split, dict[str, Tensor]]:
    """The tasks of a seed, and of the tests the labelled features (C, M, F) that the ceiling is made of."""
    wnids, of_tiny = features["tiny"]
    order = torch.randperm(len(wnids), generator=generator(seed, "classes"))
    others, val, test = order[:100], order[100:150], order[150:]
    scale = of_tiny[others].square().mean().sqrt()
    half = of_tiny.shape[1] // 2
    names = read_descriptions(knobs["classes"])
    asked = {wnids[j]: names[wnids[j]] for j in (*val.tolist(), *test.tolist())}
    rows, known = known_rows(knobs, asked)

    def tasks(of: Tensor, called: list[str], n_tasks: int, n_way: int, split: str) -> DescribedTasks:
        texts = embed_names(knobs["encoder"], called, prompts=knobs["prompts"])
        counts = torch.full((len(of),), of.shape[1])
        of_split = DescribedClasses((of / scale).flatten(0, 1), counts, texts=texts, learned_from=split == "meta_train")
        sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_query": N_QUERY}
        return DescribedTasks.of_classes(of_split, **sizes, seed=seed, split=split)

    as_features = rows_as_features(rows, of_tiny[others].flatten(0, 1))[:, None]
    cifar_names, of_cifar = features["cifar"]
    middle = of_cifar.shape[1] // 2

    def named(chosen: Tensor) -> list[str]:
        return [names[wnids[j]] for j in chosen.tolist()]

    split = {
        "meta_train": tasks(as_features, list(known.values()), RECORDED, 50, "meta_train"),
        "meta_val": tasks(of_tiny[val], named(val), N_TASKS, 50, "meta_val"),
        "tiny": tasks(of_tiny[test][:, half:], named(test), N_TASKS, 50, "tiny"),
        "cifar": tasks(of_cifar[:, middle:], cifar_names, 4 * N_TASKS, 10, "cifar"),
    }
    return split, {"tiny": of_tiny[test][:, :half] / scale, "cifar": of_cifar[:, :middle] / scale}


def _setup(split: Split) -> Setup:
    params = defaults()
    return Setup(
        meta=Meta(**META),
        diffusion=Diffusion(**params["diffusion"]),
        denoiser=Denoiser(**params["denoiser"]),
        length=COLLECTED["length"],
        n_way=50,
        n_shot=1,
        n_tasks=RECORDED,
        n_classes=split["meta_train"].n_classes,
        provides=ZeroShot.provides,
    )


def _shuffled(source: DescribedTasks, by: int) -> DescribedTasks:
    """Each class has another's name."""
    of = replace(source.of, texts=source.of.texts.roll(by, 0))
    return DescribedTasks(of, source.classes, source.support, source.query)


def _scores(method: Method, source: DescribedTasks, seed: int) -> Tensor:
    return scores(method.learner, source, lambda c: method.generate(c, generator=generator(seed, "noise")))


def _ceiling(start: Start, means: Tensor, source: DescribedTasks) -> Tensor:
    """Of the nearest class mean (C, F) of labelled images."""
    learner = linear_classifier(start.learner, "the ceiling")
    found = []
    for tasks in batches(len(source)):
        w = prototype_weights(learner, means[source.classes[tasks]], 1.0)
        found.append(learner.score(w, source.batch(tasks).query))
    return torch.cat(found)


def _milliseconds(method: Method, source: DescribedTasks, seed: int) -> Tensor:
    """From a task's texts to its weights, the median of twenty."""
    context, times = source.context(torch.arange(1)), []
    for _ in range(21):
        started = time.perf_counter()
        method.generate(context, generator=generator(seed, "noise"))
        times.append(1000 * (time.perf_counter() - started))
    return torch.tensor([statistics.median(times[1:])])


def _best(found: dict[str, list[Tensor]]) -> str:
    return max(OF_NAMES, key=lambda name: torch.cat(found[name]).mean().item())


def _text(found: dict, command: str, seeds: int) -> str:
    """The table: controls, then generators, each against the best control of its test."""
    tests = {"cifar": "CIFAR-10, 10-way", "tiny": "Tiny-ImageNet, 50-way"}
    best = {test: _best(found[test]) for test in tests}
    rows = []
    for name in (*OF_NAMES, *GENERATORS):
        row = [f"{name}{' (control)' if name in CONTROLS else ''}"]
        for test in tests:
            values, control = (torch.cat(found[test][each]).double() for each in (name, best[test]))
            against = "the best control" if name == best[test] else percent(*mean_and_ci95(values - control), sign="+")
            shuffled = torch.cat(found[f"{test} shuffled"][name]).mean().item()
            row += [percent(*mean_and_ci95(values)), against, f"{100 * shuffled:.1f}"]
        rows.append([*row, f"{torch.cat(found['ms'][name]).mean():.2f}"])
    ceilings = [percent(*mean_and_ci95(torch.cat(found[test]["ceiling"]))) for test in tests]
    rows.append(["class means of labelled images (ceiling)", ceilings[0], "", "", ceilings[1], "", "", ""])
    columns = [part for name in tests.values() for part in (name, "over the best control", "shuffled names")]
    text = (
        "# Heads from names\n\n"
        "EfficientNet-lite0 (ImageNet) at 128 px, names by a text encoder in the prompts of `ltdi/prompts.json`; no"
        " image of a class is seen before it is asked. Learned from the rows of the body's own classifier but for those"
        f" of the classes that are chosen or tested on. {seeds} seed{'s' if seeds > 1 else ''}, each with its own"
        " classes of Tiny-ImageNet; accuracy in % with 95 % intervals over tasks, which share their classes: they"
        " are of the images, and not of the choice of classes. Chance is 10 and 2. ms: from the texts to the weights"
        f" of a 10-way task, on {origin()['device']}. A trained generator whose strength meta-val set to 0 is its"
        " start, the softmax-weighted rows, to the digit. With shuffled names no class has its own, so that chance is"
        f" an upper bound. `{command}`\n\n"
    )
    return text + table(["method", *columns, "ms"], rows)
