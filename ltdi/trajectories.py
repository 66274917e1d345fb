"""Trajectories w_n, …, w_1, w_0 of many tasks: how they are recorded, and where they start.

The only file where an optimiser's step and a diffusion time meet: ``recorded_steps`` counts up with
training, the index i of a point w_i counts down to the trained head, as the diffusion time does.
"""

from dataclasses import dataclass
from itertools import cycle, repeat

import torch
from torch import Tensor

from ltdi.adaptation import adapt
from ltdi.closed_form import prototype_head, ridge_head
from ltdi.errors import InputError
from ltdi.heads import Head
from ltdi.metrics import accuracy
from ltdi.seeding import generator
from ltdi.tasks import Support, TaskSource, labelled

# tasks do not touch each other, and the activations of a few stay in the processor's cache: twice as fast as all at once
IMAGES_TOGETHER = 6400


@dataclass(frozen=True, eq=False)
class Start:
    """Where training, and so generation, starts.

    ``kind`` is "fresh" (Gaussian weights of each task's own: the paper's), "shared" (one Gaussian draw
    for all tasks, so that hidden units mean the same in all of them), "prototype" or "ridge" (the
    closed-form head of the task's support set). ``shared`` is the one draw (D,), ``ridge`` the penalty.
    """

    head: Head
    kind: str
    shared: Tensor
    temperature: float = 1.0
    ridge: float = 1.0

    def centre(self, support: Support) -> Tensor:
        """What is known of the start from the support set alone (B, D); the origin of the diffusion."""
        match self.kind:
            case "prototype":
                return prototype_head(self.head, support.class_means, self.temperature)
            case "ridge":
                return ridge_head(self.head, support, self.ridge, self.temperature)
            case "shared":
                if self.head.space.dim(support.n_way) != len(self.shared):
                    raise InputError(
                        f"trajectories.start = shared is one head for all tasks, and there is none of {support.n_way} classes; set tasks.train_n_way = null, or choose another start"
                    )
                return self.shared.expand(len(support), -1)
            case _:
                return self.shared.new_zeros(self.head.space.dim(support.n_way)).expand(len(support), -1)

    def draw(self, support: Support, tasks: Tensor, seed: int) -> Tensor:
        """w_n (B, D). A fresh draw is named after its task, so that it does not depend on the task's neighbours."""
        if self.kind != "fresh":
            return self.centre(support)
        draws = [self.head.initial(1, support.n_way, generator(seed, "start", task)) for task in tasks.tolist()]
        return torch.cat(draws).to(support.features)

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and plain values from which ``from_state`` makes it again."""
        shape = {"n_features": self.head.n_features, "hidden": self.head.hidden}
        return {"start/shared": self.shared}, {
            "head": shape,
            "start": self.kind,
            "temperature": self.temperature,
            "ridge": self.ridge,
        }

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], values: dict) -> "Start":
        return cls(
            Head(**values["head"]), values["start"], tensors["start/shared"], values["temperature"], values["ridge"]
        )


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Points (M, P, D), point i being w_i: 0 the trained head, P - 1 the start; losses and accuracies (M, P)."""

    points: Tensor
    losses: Tensor
    accuracies: Tensor

    @property
    def finite(self) -> Tensor:
        """(M,)"""
        return self.points.isfinite().flatten(1).all(1)


def recorded_steps(steps: int, length: int) -> list[int]:
    """The ``length`` optimiser steps that are recorded: the start, the end, and evenly between them."""
    return [round(j * steps / (length - 1)) for j in range(length)]


def collect(
    start: Start,
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
) -> Trajectories:
    """Train the heads of ``tasks`` together and record them (Algorithm 1).

    ``fit_on`` is "class" (all images of the task's classes) or "support". With ``augment`` the steps on
    classes take the source's augmented views in turn.
    """
    support = source.support_of(tasks)
    w = start.draw(support, tasks, seed)
    together = max(1, IMAGES_TOGETHER // (support.n_way * source.n_images))
    knobs = {
        "fit_on": fit_on,
        "augment": augment,
        "optimizer": optimizer,
        "lr": lr,
        "record": recorded_steps(steps, length),
        "sam": sam,
    }
    parts = [_collect(start, source, *part, **knobs) for part in zip(tasks.split(together), w.split(together))]
    return Trajectories(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("points", "losses", "accuracies"))
    )


def _collect(
    start: Start,
    source: TaskSource,
    tasks: Tensor,
    w: Tensor,
    *,
    fit_on: str,
    augment: bool,
    optimizer: str,
    lr: float,
    record: list[int],
    sam: float,
) -> Trajectories:
    """Tasks few enough to be trained at once, from the heads w (B, D), recorded at the steps ``record``."""
    all_inputs, all_labels = labelled(source.all_images(tasks))
    if fit_on == "support":
        batches = repeat(source.support_of(tasks).labelled)
    elif augment:
        batches = (labelled(source.all_images(tasks, view)) for view in cycle(range(source.n_views)))
    else:
        batches = repeat((all_inputs, all_labels))
    path = adapt(start.head, w, batches, optimizer=optimizer, lr=lr, record=record, sam=sam)
    accuracies = torch.stack(
        [accuracy(start.head(path.weights[:, j], all_inputs), all_labels) for j in range(len(record))], 1
    )
    return Trajectories(path.weights.flip(1), path.losses.flip(1), accuracies.flip(1))
