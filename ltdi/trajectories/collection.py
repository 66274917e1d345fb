"""Trajectories w_n, …, w_1, w_0 of many tasks: how they are recorded.

The only file where an optimiser's step and a diffusion time meet: ``recorded_steps`` counts up with
training, the index i of a point w_i counts down to the trained weights, as the diffusion time does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, repeat
from typing import Any

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.learners.base import Learner
from ltdi.learners.fitting import TrainingPath, train
from ltdi.tasks.base import Context, TaskSource
from ltdi.tasks.batch import Batch
from ltdi.utils.devices import side_by_side
from ltdi.utils.errors import InputError


@dataclass(frozen=True, eq=False)
class Recorded:
    """Points (M, P, D), point i being w_i: 0 the trained weights, P - 1 the start; losses and scores (M, P)."""

    points: Tensor
    losses: Tensor
    scores: Tensor

    @property
    def finite(self) -> Tensor:
        """(M,)"""
        # NaN is the least and the largest of whatever it is in: one pass, and nothing as large as the points
        least, largest = self.points.flatten(1).aminmax(dim=1)
        return least.isfinite() & largest.isfinite()


class Trajectories:
    """The recorded points of M tasks, in parts that may lie in mapped files: what a batch needs is read, and no more.

    Task j of the source that they belong to has row ``row[j]`` of part ``part[j]``, (m, P, D) each.
    """

    def __init__(self, parts: Sequence[Tensor], part: Tensor, row: Tensor) -> None:
        self.parts, self.part, self.row = parts, part, row

    @classmethod
    def of(cls, points: Tensor) -> "Trajectories":
        """Points (M, P, D) that are in memory."""
        return cls([points], torch.zeros(len(points), dtype=torch.long), torch.arange(len(points)))

    def __len__(self) -> int:
        return len(self.row)

    @property
    def length(self) -> int:
        """P"""
        return self.parts[0].shape[1]

    @property
    def dim(self) -> int:
        """D"""
        return self.parts[0].shape[2]

    def at(self, step: int, train: TaskSource) -> "tuple[TaskSource, Trajectories]":
        """The tasks of ``train`` and their trajectories that a step of meta-training draws from: here all, always."""
        return train, self

    def points(self, tasks: Tensor) -> Tensor:
        """(B, P, D)"""
        return torch.stack([self.parts[part][row] for part, row in self._places(tasks)])

    def trained(self, tasks: Tensor) -> Tensor:
        """w_0 (B, D)"""
        return torch.stack([self.parts[part][row, 0] for part, row in self._places(tasks)])

    def _places(self, tasks: Tensor) -> Iterator[tuple[int, int]]:
        tasks = tasks.cpu()
        return zip(self.part[tasks].tolist(), self.row[tasks].tolist(), strict=True)


def recorded_steps(steps: int, length: int) -> list[int]:
    """The ``length`` optimiser steps that are recorded: the start, the end, and evenly between them."""
    return [round(j * steps / (length - 1)) for j in range(length)]


def collect(
    initialization: Initialization,
    source: TaskSource,
    tasks: Tensor,
    *,
    fit_on: str,
    augment: bool,
    optimizer: str,
    lr: float,
    steps: int,
    length: int,
    sam: float,
    seed: int,
    precision: str = "float32",
) -> Recorded:
    """Train the weights of ``tasks`` together and record them (Algorithm 1).

    ``fit_on`` is "class" (all that there is of the task), "support" (the examples of its context), or "rows":
    of classes that are known no training, the straight line from the start to the weights that there are already
    (``Start.ends``), of others as "class". With ``augment`` the steps on all take the source's augmented views in
    turn. With ``precision`` "bfloat16" products of matrices are taken in it where the gradient is written out.
    """
    learner, w = initialization.learner, initialization.draw(source.context(tasks), tasks, seed)
    how: dict[str, Any] = {"optimizer": optimizer, "lr": lr, "record": recorded_steps(steps, length), "sam": sam}
    how["products"] = torch.bfloat16 if precision == "bfloat16" else None
    made = Recorded(w.new_empty(len(w), length, w.shape[1]), *(w.new_empty(len(w), length) for _ in range(2)))

    def record(rows: slice) -> None:
        path, scores = _path(initialization, source, tasks[rows], w[rows], fit_on, augment, length, how)
        for own, found in ((made.points, path.weights), (made.losses, path.losses), (made.scores, scores)):
            own[rows] = found.flip(1)

    inputs = next(iter(source.fitted_on(tasks[:1]).values())).shape[1]
    together = max(1, _inputs_together(learner, w) // inputs)
    aside = w.device.type == "cpu" and learner.analytic_gradient(w[:1]) is not None
    if aside:
        together = min(together, -(-len(w) // torch.get_num_threads()))
    parts = [slice(first, first + together) for first in range(0, len(w), together)]
    if aside:
        side_by_side(record, parts)
    else:
        for rows in parts:
            record(rows)
    return made


def _path(
    initialization: Initialization,
    source: TaskSource,
    tasks: Tensor,
    w: Tensor,
    fit_on: str,
    augment: bool,
    length: int,
    how: dict[str, Any],
) -> tuple[TrainingPath, Tensor]:
    """Of these tasks from w (B, D), and the scores of its points on everything there is of them (B, P)."""
    everything, context = source.fitted_on(tasks), source.context(tasks)
    if fit_on == "rows" and context.known is not None:
        path = _straight(initialization, w, context, everything, length)
    else:
        batches = _batches(source, tasks, everything, fit_on, augment)
        path = train(initialization.learner, w, batches, **how)
    if path.scores is not None and fit_on != "support" and not augment:
        return path, path.scores
    with torch.no_grad():
        scores = [initialization.learner.score(path.weights[:, j], everything) for j in range(length)]
    return path, torch.stack(scores, 1)


def _inputs_together(learner: Learner, w: Tensor) -> int:
    return learner.inputs_together if w.device.type == "cpu" else learner.inputs_on_gpu or learner.inputs_together


def _batches(source: TaskSource, tasks: Tensor, everything: Batch, fit_on: str, augment: bool) -> Iterator[Batch]:
    """What each step is taken on."""
    if fit_on == "support":
        examples = source.context(tasks).examples
        if examples is None:
            raise InputError(
                "trajectories.fit_on = support takes steps on labelled examples, which these tasks do not have; set"
                " class"
            )
        return repeat(examples)
    if augment:
        return (source.fitted_on(tasks, view) for view in cycle(range(source.n_views)))
    return repeat(everything)


def _straight(
    initialization: Initialization, w: Tensor, context: Context, everything: Batch, length: int
) -> TrainingPath:
    """From w (B, D) to weights that there are already, at even steps."""
    ends = initialization.ends(context)
    if ends is None:
        raise InputError(
            "trajectories.fit_on = rows needs weights that there are already, and this start has none; set class, or"
            " trajectories.initialization = from_names"
        )
    weights = torch.stack([torch.lerp(w, ends, j / (length - 1)) for j in range(length)], 1)
    with torch.no_grad():
        losses = torch.stack([initialization.learner.loss(weights[:, j], everything) for j in range(length)], 1)
    return TrainingPath(weights, losses)
