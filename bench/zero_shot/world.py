"""What ``python -m bench zero-shot`` measures with: the tasks of a seed seen in one way, a method trained on them, and
what is read off it."""

import statistics
import time
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness.settings import defaults
from bench.zero_shot.data import RECORDED, Split
from ltdi.config import Denoiser, Diffusion, MetaTraining
from ltdi.initialization.closed_form import linear_classifier, prototype_weights
from ltdi.initialization.from_names import SHARPNESSES, FromNames
from ltdi.initialization.selection import of_names
from ltdi.learners.base import Classifier
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.methods.registry import METHODS, build
from ltdi.scenarios.zero_shot import ZeroShot
from ltdi.tasks.base import Context, batches
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.trajectories.collection import Trajectories, collect
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

META: dict[str, Any] = {
    **{"n_way": 50, "min_shot": 1, "max_shot": 1, "new_tasks": 1, "recorded_tasks": 0, "query_images": 4},
    **{"streamed_tasks": 0, "uses_per_trajectory": 1},
    **{"query_loss": 1.0, "weight_loss": 0.0, "inner_steps": 1, "inner_optimizer": "sgd", "inner_lr": 0.05},
}
COLLECTED: dict[str, Any] = {"optimizer": "adam", "lr": 2e-3, "steps": 3, "length": 4, "sam": 0.0, "augment": False}
LR, EMA = 1e-3, 0.98
DENOISER: dict[str, Any] = {"depth": 1, "dropout": 0.5, "linear_map": False}
INITIALIZATION = "kernel_ridge"
"""Chosen on the classes to choose on, by what generators make of it."""


@dataclass(frozen=True)
class World:
    """The tasks of a seed, whose features are seen in one way."""

    initialization: FromNames
    seen: FeatureMap
    sources: Split
    trajectories: Trajectories

    @classmethod
    def of(cls, sources: Split, normalise: str, seed: int) -> "World":
        learner = {"name": "linear_head", "normalise": normalise, "projection": None}
        initialization, seen = of_names(sources["meta_train"], sources["meta_val"], learner, INITIALIZATION, seed=seed)
        assert isinstance(initialization, FromNames) and seen is not None
        sources = {name: source.through(seen) for name, source in sources.items()}
        numbers = torch.arange(len(sources["meta_train"]))
        recorded = collect(initialization, sources["meta_train"], numbers, fit_on="class", seed=seed, **COLLECTED)
        return cls(initialization, seen, sources, Trajectories.of(recorded.points))

    def learned(self, name: str, steps: int, seed: int) -> Method:
        """A method or baseline, trained where it is."""
        method = build(name, self.initialization, self._setup(), defaults()["methods"][name], seed=seed)
        train, val = self.sources["meta_train"], self.sources["meta_val"]
        method.prepare(train, self.trajectories, val)
        if name in METHODS:
            training = Training(method, lr=LR, steps=steps * (10 if name == "icis" else 1), ema=EMA)
            for _ in method.meta_train(training, train, self.trajectories, seed=seed):
                pass
            method.eval().load_state_dict(training.average)
            method.finish(val, seed=seed)
        return method

    def _setup(self) -> Setup:
        params = defaults()
        return Setup(
            meta=MetaTraining(**META),
            diffusion=Diffusion(**params["diffusion"]),
            denoiser=Denoiser(**(params["denoiser"] | DENOISER)),
            length=COLLECTED["length"],
            n_way=50,
            n_shot=1,
            n_tasks=RECORDED,
            n_classes=self.sources["meta_train"].n_classes,
            provides=ZeroShot.provides,
        )


def milliseconds(method: Method, source: NamedClassTasks, seed: int) -> Tensor:
    """From a task's texts to its weights, the median of twenty."""
    context, times = source.context(torch.arange(1)), []
    for _ in range(21):
        started = time.perf_counter()
        method.generate(context, generator=generator(seed, "noise"))
        times.append(1000 * (time.perf_counter() - started))
    return torch.tensor([statistics.median(times[1:])])


def given_back(method: Method, world: World, seed: int) -> Tensor:
    """Of every known class (C,) whether the direction that its name alone gives is nearest to its own row; nothing of a
    method that gives no rows."""
    of, learner = world.sources["meta_train"].of, method.learner
    if not isinstance(learner, Classifier) or "output.weight" not in learner.space.shapes:
        return torch.zeros(0)
    rows = F.normalize(of.means() - of.means().mean(0), dim=-1)
    found = []
    for classes in batches(len(of), 50):
        context = Context(of.texts[classes][None, :, None])
        weight = learner.space.unflatten(method.generate(context, generator=generator(seed, "noise")))["output.weight"]
        found.append((F.normalize(weight[0], dim=-1) @ rows.mT).argmax(-1) == classes)
    return torch.cat(found).double()


@torch.no_grad()
def by_class(method: Method, source: NamedClassTasks, seed: int) -> tuple[Tensor, Tensor]:
    """Of all query images of a class in tasks of all classes, the share that is right (C,), and the mean probability of
    each class (C, C)."""
    n, learner = source.n_way, cast(Classifier, method.learner)
    right, said = torch.zeros(n, dtype=torch.double), torch.zeros(n, n, dtype=torch.double)
    for tasks in batches(len(source)):
        task = source.batch(tasks)
        w = method.generate(task.context, generator=generator(seed, "noise"))
        shares = learner.logits(w, task.query["inputs"]).softmax(-1).double()
        for own, classes in zip(shares.unflatten(1, (n, -1)).mean(2), source.classes[tasks]):
            said[classes[:, None], classes] += own / len(source)
        hits = (shares.argmax(-1) == task.query["labels"]).double().unflatten(1, (n, -1)).mean(2)
        for own, classes in zip(hits, source.classes[tasks]):
            right[classes] += own / len(source)
    return right, said


@torch.no_grad()
def probabilities(method: Method, source: NamedClassTasks, seed: int, images: int = 2) -> Tensor:
    """The probability of each class for the first images of each (C, images, C), by a head for all of them."""
    classes = torch.arange(len(source.of))
    w = method.generate(source.of.context(classes[None]), generator=generator(seed, "noise"))
    places = source.of.rows_of(classes[None], torch.arange(images).expand(1, len(classes), -1))
    rows = source.of.mapped(source.of.features[places])
    logits = linear_classifier(method.learner, "a picture").logits(w, rows.flatten(1, 2))
    return logits[0].softmax(-1).unflatten(0, (len(classes), images))


def of_means(world: World, means: Tensor, source: NamedClassTasks) -> Tensor:
    """The accuracies (M,) of the nearest class mean (C, F) of labelled images."""
    learner = linear_classifier(world.initialization.learner, "the ceiling")
    return scores_of(world, lambda classes: prototype_weights(learner, means[classes], 1.0), source)


def of_rows(world: World, rows: Tensor, source: NamedClassTasks) -> Tensor:
    """The accuracies (M,) of directions (C, F) from the mean row."""
    table, learner = world.initialization.table, linear_classifier(world.initialization.learner, "the ceiling")
    return scores_of(world, lambda classes: table.classifier(learner, rows[classes], 1.0), source)


def scores_of(world: World, weights_of: Any, source: NamedClassTasks) -> Tensor:
    """(M,) of weights (B, D) for classes (B, N)."""
    found = []
    for tasks in batches(len(source)):
        found.append(world.initialization.learner.score(weights_of(source.classes[tasks]), source.batch(tasks).query))
    return torch.cat(found)


def by_similarity(world: World, means: dict[str, Tensor], tests: list[str]) -> dict[str, Tensor]:
    """The accuracies (M,) by test of the softmax-weighted rows where labelled images of the asked classes, their
    ``means`` (C, F), say which rows are near, and not texts. The sharpness is chosen on meta-val."""
    table = world.initialization.table
    rows = F.normalize(table.centred, dim=-1)

    def directions(part: str, sharpness: float) -> Tensor:
        like = F.normalize(means[part] - table.mean, dim=-1) @ rows.mT
        return (like / sharpness).softmax(-1) @ table.centred

    val = world.sources["meta_val"]
    best = max(SHARPNESSES, key=lambda each: of_rows(world, directions("meta_val", each), val).mean().item())
    return {test: of_rows(world, directions(test, best), world.sources[test]) for test in tests}
