"""``python -m bench zero-shot``: heads from names on a pre-trained body, learned from the rows of its own classifier
and from how heads of images differ from them -> bench/results/zero_shot.md.

Tiny-ImageNet's classes are split anew by every seed: 100 whose images are learned from, 50 to choose on, 50 to test on;
of the body's 1,000 rows those of the latter two are left out. CIFAR-10 is the second test. What is chosen is chosen on
the 50 to choose on.
"""

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench import BENCH, zero_shot_tracks
from bench.machine import origin
from bench.settings import defaults
from bench.text import percent, table
from bench.zero_shot_data import RECORDED, Split, features, shuffled, split
from ltdi.console import say
from ltdi.described import DescribedTasks
from ltdi.features import NORMALISATIONS, FeatureMap
from ltdi.methods import CONTROLS, build
from ltdi.methods.base import Method, scores
from ltdi.methods.setup import Denoiser, Diffusion, Meta, Setup
from ltdi.metrics import mean_and_ci95
from ltdi.scenarios.zero_shot import ZeroShot
from ltdi.seeding import generator
from ltdi.starts import Start
from ltdi.starts.closed_form import linear_classifier, prototype_weights
from ltdi.store import write_text
from ltdi.tasks import batches
from ltdi.training import Training
from ltdi.trajectories import Trajectories, collect

OF_NAMES = ("nearest_name", "softmax_rows", "text_ridge", "kernel_ridge", "eszsl", "conse")
GENERATORS = ("ltdi", "icis", "meta_hypernetwork", "lvdi", "weight_flow")
META: dict[str, Any] = {
    **{"n_way": 50, "min_shot": 1, "max_shot": 1, "new_tasks": 1, "recorded_tasks": 0, "query_images": 4},
    **{"query_loss": 1.0, "weight_loss": 0.0, "inner_steps": 1, "inner_optimizer": "sgd", "inner_lr": 0.05},
}
COLLECTED: dict[str, Any] = {"optimizer": "adam", "lr": 2e-3, "steps": 3, "length": 4, "sam": 0.0, "augment": False}
LR, EMA = 1e-3, 0.98
DENOISER: dict[str, Any] = {"depth": 1, "dropout": 0.5}
SHUFFLES = (1, 3, 7, 9)
# chosen on the classes to choose on, by what generators make of them; controls have their own best normalisation
START, FOR_GENERATORS = "kernel_ridge", "centred"


def main(
    tiny: Annotated[Path, typer.Option(help="A zip that holds train/<wnid>/*.")],
    cifar: Annotated[Path, typer.Option(help="A zip that holds test/<class>/*.")],
    body: Annotated[Path, typer.Option(help="tf_efficientnet_lite0's weights in timm's keys.")],
    classes: Annotated[Path, typer.Option(help="A wnid, a tab and a name for each row of its classifier.")],
    encoder: Annotated[str, typer.Option(help="A text encoder: a folder, or the hub's name of one.")],
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    images: Annotated[int, typer.Option(help="Of a class, the first half labelled for what needs that.")] = 60,
    steps: Annotated[int, typer.Option(help="Of meta-training.")] = 120,
    prompts: Annotated[str, typer.Option(help="A set of ltdi/prompts.json.")] = "photos",
    method: Annotated[list[str], typer.Option(help="What generates; may be repeated.")] = list(GENERATORS),  # noqa: B006
) -> None:
    torch.manual_seed(0)
    knobs = {"classes": classes, "classifier": body, "encoder": encoder, "prompts": prompts}
    of = {"tiny": features(tiny, "train", images, body), "cifar": features(cifar, "test", 5 * images, body)}
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for each in seed:
        _measure(each, of, knobs, method, steps, found)
        command = (
            "python -m bench zero-shot --tiny … --cifar … --body … --classes … --encoder …"
            f" {' '.join(f'--seed {done}' for done in seed[: seed.index(each) + 1])} --images {images} --steps {steps}"
        )
        write_text(BENCH / "results" / "zero_shot.md", _text(found, command, seed.index(each) + 1))


@dataclass(frozen=True)
class World:
    """The tasks of a seed, whose features are seen in one way."""

    start: Start
    seen: FeatureMap
    sources: Split
    trajectories: Trajectories

    @classmethod
    def of(cls, sources: Split, normalise: str, seed: int) -> "World":
        learner = {"name": "linear_head", "normalise": normalise, "projection": None}
        start, seen = ZeroShot().begin(sources, learner, START, seed=seed)
        assert seen is not None
        sources = {name: source.through(seen) for name, source in sources.items()}
        numbers = torch.arange(len(sources["meta_train"]))
        recorded = collect(start, sources["meta_train"], numbers, fit_on="class", seed=seed, **COLLECTED)
        return cls(start, seen, sources, Trajectories.of(recorded.points))


def _measure(
    seed: int, of: dict[str, Any], knobs: dict[str, Any], generators: list[str], steps: int, found: dict
) -> None:
    """All methods of one seed, into ``found``: test set and column -> method -> a value a task, seed by seed."""
    sources, labelled = split(seed, of, knobs)
    worlds = {normalise: World.of(sources, normalise, seed) for normalise in NORMALISATIONS}
    for name in (*OF_NAMES, *generators):
        started = time.perf_counter()
        candidates = worlds if name in OF_NAMES else {FOR_GENERATORS: worlds[FOR_GENERATORS]}
        learned = {normalise: _learned(name, world, steps, seed) for normalise, world in candidates.items()}
        seconds = time.perf_counter() - started
        val = {each: _scores(method, worlds[each].sources["meta_val"], seed) for each, method in learned.items()}
        best = max(val, key=lambda each: val[each].mean().item())
        method, world = learned[best], worlds[best]
        for test in ("tiny", "cifar"):
            found[test][name].append(_scores(method, world.sources[test], seed))
            others = [_scores(method, shuffled(world.sources[test], by), seed) for by in SHUFFLES]
            found[f"{test} shuffled"][name].append(torch.cat(others))
        found["val"][name].append(val[best])
        found["ms"][name].append(_milliseconds(method, world.sources["cifar"], seed))
        told = getattr(method, "strength", None)
        say(
            f"seed {seed}, {name}: {best} features, meta-val {val[best].mean():.4f}, {seconds:.0f} s"
            f"{'' if told is None else f', strength {told[0]:.2f}'}"
        )
        if name in zero_shot_tracks.NAMES:
            mean = world.sources["meta_train"].of.means().mean(0)
            zero_shot_tracks.measure(found, name, method, world.sources, labelled, world.seen, mean, seed)
    world = worlds[FOR_GENERATORS]
    found["val"]["start"].append(scores(world.start.learner, world.sources["meta_val"], world.start.centre))
    for test in ("tiny", "cifar"):
        found[test]["start"].append(scores(world.start.learner, world.sources[test], world.start.centre))
        found[test]["ceiling"].append(_ceiling(world.start, world.seen(labelled[test]).mean(1), world.sources[test]))


def _learned(name: str, world: World, steps: int, seed: int) -> Method:
    """A method or control, trained where it is."""
    method = build(name, world.start, _setup(world.sources), defaults()["methods"][name], seed=seed)
    method.prepare(world.sources["meta_train"], world.trajectories, world.sources["meta_val"])
    if name in GENERATORS:
        training = Training(method, lr=LR, steps=steps * (10 if name == "icis" else 1), ema=EMA)
        for _ in method.meta_train(training, world.sources["meta_train"], world.trajectories, seed=seed):
            pass
        method.eval().load_state_dict(training.average)
        method.finish(world.sources["meta_val"], seed=seed)
    return method


def _setup(sources: dict[str, DescribedTasks]) -> Setup:
    params = defaults()
    return Setup(
        meta=Meta(**META),
        diffusion=Diffusion(**params["diffusion"]),
        denoiser=Denoiser(**(params["denoiser"] | DENOISER)),
        length=COLLECTED["length"],
        n_way=50,
        n_shot=1,
        n_tasks=RECORDED,
        n_classes=sources["meta_train"].n_classes,
        provides=ZeroShot.provides,
    )


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
    for name in (*OF_NAMES, "start", *(each for each in GENERATORS if each in found["tiny"])):
        row = [f"{name}{' (control)' if name in CONTROLS else ''}"]
        row.append(percent(*mean_and_ci95(torch.cat(found["val"][name]))))
        for test in tests:
            values, control = (torch.cat(found[test][each]).double() for each in (name, best[test]))
            against = "the best control" if name == best[test] else percent(*mean_and_ci95(values - control), sign="+")
            by_seed = ", ".join(
                f"{100 * (a - b).mean():+.1f}" for a, b in zip(found[test][name], found[test][best[test]])
            )
            named = f"{100 * torch.cat(found[f'{test} shuffled'][name]).mean():.1f}" if name != "start" else ""
            row += [percent(*mean_and_ci95(values)), against, "" if name == best[test] else by_seed, named]
        rows.append([*row, f"{torch.cat(found['ms'][name]).mean():.2f}" if name != "start" else ""])
    ceilings = [percent(*mean_and_ci95(torch.cat(found[test]["ceiling"]))) for test in tests]
    rows.append(["class means of labelled images (ceiling)", "", ceilings[0], "", "", "", ceilings[1], "", "", "", ""])
    rows += [
        [f"*reported:* CLIP {name}", "", value, *[""] * 8] for name, value in (("RN50", "71.6"), ("ViT-B/32", "89.8"))
    ]
    columns = [part for name in tests.values() for part in (name, "over the best control", "by seed", "shuffled names")]
    return (
        _about(command, seeds)
        + table(["method", "meta-val, 50-way", *columns, "ms"], rows)
        + zero_shot_tracks.text(found)
    )


def _about(command: str, seeds: int) -> str:
    return (
        "# Heads from names\n\n"
        "EfficientNet-lite0 (ImageNet) at 128 px, names by a text encoder in the prompts of `ltdi/prompts.json`; no"
        " image of a class is seen before it is asked. Known are the rows of the body's own classifier but for those"
        " of the classes that are chosen or tested on, and images of 100 other classes of Tiny-ImageNet, from which"
        " generators learn how heads of images differ from rows; controls have the rows. Each control has the"
        f" normalisation that is best on meta-val; generators begin at {START} on {FOR_GENERATORS} features,"
        " which is the row *start*; ICIS is trained ten times as many steps."
        f" {seeds} seed{'s' if seeds > 1 else ''}, each with its own classes of Tiny-ImageNet; accuracy in % with 95 %"
        " intervals over tasks, which share their classes: they are of the images, and not of the choice of classes,"
        " which the columns by seed show. Chance is 10 and 2. ms: from the texts to the weights of a 10-way task, on"
        f" {origin()['device']}, other work beside. A trained generator whose strength meta-val set to 0 is its start."
        " With shuffled names no class has its own, so that chance is an upper bound. The body has seen images of all"
        f" classes of Tiny-ImageNet. `{command}`\n\n"
    )
