"""The one interface: a way to obtain weights for a task nobody has trained on."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.learners.base import Learner
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.trainer import Row, Training


class Method(nn.Module):
    """A way to obtain weights for a new task. All that it learns is a parameter or a buffer: ``state_dict()`` is the
    whole artefact.

    It is handed contexts only, so that no query can leak into the weights. It knows no file, no params and no logger.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """What it cannot do without: "head", weights that hold a linear classifier; "classes", "names", "examples" or
    "images", which not all tasks have."""

    adapts: bool = False
    """Whether generating weights means gradient steps on the examples."""

    fixed_n_way: bool = False
    """Whether it generates for as many slots as it was trained with, and for no other number."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__()
        self.initialization = initialization

    @property
    def learner(self) -> Learner:
        """What its weights are of: the start's learner, if it says no other."""
        return self.initialization.learner

    @property
    def space(self) -> WeightSpace:
        return self.learner.space

    @property
    def from_images(self) -> bool:
        return "images" in self.needs

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """What is learned without gradient steps: statistics of the training tasks, hyperparameters chosen on
        meta-val."""

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train from ``training.step`` to ``training.steps``, yielding a log row a step. Default: learns nothing."""
        yield from ()

    def finish(self, val: TaskSource, *, seed: int) -> None:
        """What is chosen on meta-val once meta-training has ended. Default: nothing."""

    def refit(self, train: TaskSource) -> None:
        """Learn again, from these tasks' classes, what ``prepare`` learned from classes; what was chosen on meta-val
        stays. Default: nothing."""

    def choose_as(self, other: "Method") -> None:
        """Take over what ``finish`` chose for ``other``, the same method meta-trained on other tasks. Default:
        nothing."""

    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """Losses on meta-val tasks by name, for the curves. Default: none."""
        return {}

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Weights (B, D) for a batch of tasks. Changes nothing in the method; a task's weights do not depend on its
        neighbours."""
        raise NotImplementedError


def scores(
    learner: Learner, source: TaskSource, weights_of: Callable[[Context], Tensor], *, tasks_a_batch: int = 64
) -> Tensor:
    """The score of each task of the table (M,) with the weights (B, D) that ``weights_of`` gives for its context."""
    found = []
    with torch.no_grad():
        for tasks in batches(len(source), tasks_a_batch):
            task = source.batch(tasks)
            found.append(learner.score(weights_of(task.context), task.query))
    return torch.cat(found)
