"""Method, the common interface of generators and baselines: from a task's support set to weights for it."""

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
    """A generator or baseline of weights for new tasks.

    Everything that a method learns is a parameter or a buffer: ``state_dict()`` is the whole artifact. ``generate``
    receives contexts only, so that no query can leak into the weights. Methods read no files and no params.

    Args:
        initialization: initial weights of the tasks, the origin of what is generated; holds the learner.
        setup: hyperparameters that methods share, and the sizes of the run.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Requirements, keys of ``ltdi.methods.registry.NEEDS``: "head", a learner whose weights hold a linear classifier;
    "classes", "names", "examples" or "images", which not all tasks have."""

    adapts: bool = False
    """Whether ``generate`` takes gradient steps on the support set."""

    fixed_n_way: bool = False
    """Whether ``generate`` supports only the n_way that the method was trained with."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__()
        self.initialization = initialization

    @property
    def learner(self) -> Learner:
        """The learner of the generated weights: by default that of the initialization."""
        return self.initialization.learner

    @property
    def space(self) -> WeightSpace:
        """Layout of the generated weight vectors (B, D)."""
        return self.learner.space

    @property
    def from_images(self) -> bool:
        """Whether the method reads images instead of features."""
        return "images" in self.needs

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit what takes no gradient steps: statistics of the training tasks, hyperparameters selected on meta-val.

        Called once, before ``meta_train``. Default: nothing.

        Args:
            train: meta-training tasks.
            trajectories: recorded training trajectories of the tasks of ``train``.
            val: meta-val tasks.
        """

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train from ``training.step`` to ``training.steps``, yielding a log row per step. Default: nothing.

        Args:
            training: optimizer, schedule and step counter of this module.
            train: meta-training tasks.
            trajectories: recorded training trajectories of the tasks of ``train``.
            seed: of everything random, by step, so that a resumed training repeats it.
        """
        yield from ()

    def finish(self, val: TaskSource, *, seed: int) -> None:
        """Select hyperparameters of generation on meta-val, once, after ``meta_train``. Default: nothing."""

    def refit(self, train: TaskSource) -> None:
        """Refit the class statistics of ``prepare`` on train + validation; selected hyperparameters stay.

        Default: nothing.
        """

    def copy_selection(self, other: "Method") -> None:
        """Copy what ``finish`` selected for ``other``, this method meta-trained on other tasks. Default: nothing."""

    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """Return losses on meta-val tasks by name, for the training curves. Default: none."""
        return {}

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Generate weights (B, D) for a batch of tasks from their contexts and the generator's noise.

        Leaves the method unchanged. A task's weights do not depend on the other tasks of the batch.
        """
        raise NotImplementedError


def scores(
    learner: Learner, source: TaskSource, weights_of: Callable[[Context], Tensor], *, tasks_a_batch: int = 64
) -> Tensor:
    """Score weights on the query sets of all M recorded tasks of a source: (M,).

    Args:
        learner: scores weights on a task's query set.
        source: the tasks.
        weights_of: context -> weights (B, D).
        tasks_a_batch: tasks per batch.
    """
    found = []
    with torch.no_grad():
        for tasks in batches(len(source), tasks_a_batch):
            task = source.batch(tasks)
            found.append(learner.score(weights_of(task.context), task.query))
    return torch.cat(found)
