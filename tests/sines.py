"""A family of tasks without pictures, classes or heads: random sines, of which a few points are known.

Its learner, source of tasks and world are all that a new family has to bring.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from worlds import World

from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.base import shared_draw
from ltdi.learners.base import Learner
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.setup import Setup
from ltdi.store import digest
from ltdi.tasks.base import Context, Task
from ltdi.tasks.batch import Batch
from ltdi.utils.seeding import generator

HIDDEN, N_SHOT, N_QUERY, N_POINTS = 12, 3, 6, 32


class SineNetwork(Learner):
    """x -> H tanh units -> y. Its batches have ``inputs`` and ``targets`` (B, M), and ``there`` (B, M), 0 where there
    is no point."""

    scored_by = "negative squared error"
    n_numbers = 2
    inputs_together = 6400

    def __init__(self, hidden: int) -> None:
        self.hidden = hidden
        layers = {"hidden.weight": (hidden, 1), "hidden.bias": (hidden,), "output.weight": (1, hidden)}
        self.space = WeightSpace(layers | {"output.bias": (1,)})

    def facts(self) -> dict[str, Any]:
        return {"name": "sine_network", "hidden": self.hidden}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        gaussian = partial(torch.randn, generator=generator)
        return self.space.flatten(
            {
                "hidden.weight": gaussian(n_tasks, self.hidden, 1),
                "hidden.bias": gaussian(n_tasks, self.hidden),
                "output.weight": output_scale * gaussian(n_tasks, 1, self.hidden) / math.sqrt(self.hidden),
                "output.bias": torch.zeros(n_tasks, 1),
            }
        )

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        t = self.space.unflatten(w)
        units = (batch["inputs"][..., None] * t["hidden.weight"].mT + t["hidden.bias"][:, None]).tanh()
        y = (units @ t["output.weight"].mT).squeeze(-1) + t["output.bias"]
        return ((y - batch["targets"]).square() * batch["there"]).sum(1) / batch["there"].sum(1)

    def score(self, w: Tensor, batch: Batch) -> Tensor:
        return -self.loss(w, batch)


def points_of(x: Tensor, y: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """(B, M) each."""
    return {"inputs": x, "targets": y, "there": torch.ones_like(x) if mask is None else mask.to(x)}


def context_of(rows: Tensor, mask: Tensor | None = None) -> Context:
    """Points (B, 1, K, 2), x and y in a row, of which ``mask`` (B, 1, K) are there."""
    return Context(rows, mask, points_of(*rows[:, 0].unbind(-1), None if mask is None else mask[:, 0]))


class Sines:
    """y = a·sin(x + φ), a task being (a, φ); of a task in the table (M, 2) the x of all that is known and asked (M, K +
    Q)."""

    n_way, n_shot, most_shots, n_views, n_classes = 1, N_SHOT, 20, 1, 0

    def __init__(self, waves: Tensor, x: Tensor) -> None:
        self.waves, self.x = waves, x

    @classmethod
    def sample(cls, n_tasks: int, name: str) -> "Sines":
        stream = generator(0, name)
        return cls(_waves(n_tasks, stream), _inputs(n_tasks, N_SHOT + N_QUERY, stream))

    @property
    def parts(self):
        return [self]

    def __len__(self) -> int:
        return len(self.waves)

    def batch(self, tasks: Tensor) -> Task:
        return self._task(self.waves[tasks], self.x[tasks], N_SHOT)

    def context(self, tasks: Tensor) -> Context:
        return self.batch(tasks).context

    def fitted_on(self, tasks: Tensor, view: int = 0) -> Batch:
        x = torch.linspace(-math.pi, math.pi, N_POINTS).expand(len(tasks), -1)
        return points_of(x, _heights(self.waves[tasks], x))

    def by_class(self) -> Iterator[Tensor]:
        yield from ()

    def draw(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        return _waves(n_tasks, stream)

    def new(
        self, names: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        n_shot = n_shot or N_SHOT
        return self._task(names, _inputs(len(names), n_shot + (n_query or N_QUERY), stream), n_shot)

    def description(self, tasks: Tensor) -> str:
        return digest(tasks, self.waves[tasks])

    def take(self, tasks: Tensor) -> "Sines":
        return type(self)(self.waves[tasks], self.x[tasks])

    @staticmethod
    def _task(waves: Tensor, x: Tensor, n_shot: int) -> Task:
        y = _heights(waves, x)
        rows = torch.stack([x, y], -1)[:, None, :n_shot]
        return Task(context_of(rows), points_of(x[:, n_shot:], y[:, n_shot:]))


def _waves(n_tasks: int, stream: torch.Generator) -> Tensor:
    return torch.rand(n_tasks, 2, generator=stream) * torch.tensor([2.0, 3.0]) + torch.tensor([0.5, 0.0])


def _inputs(n_tasks: int, n_points: int, stream: torch.Generator) -> Tensor:
    return math.pi * (2 * torch.rand(n_tasks, n_points, generator=stream) - 1)


def _heights(waves: Tensor, x: Tensor) -> Tensor:
    return waves[:, :1] * (x + waves[:, 1:]).sin()


class SineWorld(World):
    """What ``World`` is of classes of blobs."""

    source, provides = Sines, frozenset({"examples"})

    def __init__(self, kind: str) -> None:
        self.body, learner = None, SineNetwork(HIDDEN)
        self.initialization = INITIALIZATIONS[kind](learner, shared_draw(learner, 1, 0))
        self.train, self.val = self.source.sample(40, "train"), self.source.sample(8, "val")
        self.record()

    def setup(self, **changes) -> Setup:
        return replace(super().setup(**({"n_way": 1} | changes)), provides=self.provides)
