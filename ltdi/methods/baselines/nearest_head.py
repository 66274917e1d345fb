"""Nearest-head baseline: the trained head of the training task with the most similar support set.

Similarity is the Euclidean distance of the class means, concatenated in the order of the labels.
"""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories

MAX_TASKS = 1000
"""Limit of the stored training tasks."""


class NearestHead(Method):
    """Nearest neighbour among the first ``MAX_TASKS`` training tasks."""

    fixed_n_way = True
    conditions: Tensor
    """Class means of the stored tasks (tasks, N·F)."""
    heads: Tensor
    """Their trained heads (tasks, D)."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        n_tasks = min(setup.n_tasks, MAX_TASKS)
        self.register_buffer("conditions", torch.zeros(n_tasks, setup.n_way * self.learner.n_numbers))
        self.register_buffer("heads", torch.zeros(n_tasks, self.space.dim(setup.n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Store class means and trained heads of the train tasks, cut to the n_way of meta-val."""
        stored = torch.arange(len(self.heads))
        # in batches, because contexts may be large
        means = [train.context(tasks).means[:, : val.n_way].flatten(1) for tasks in stored.split(64)]
        self.conditions.copy_(torch.cat(means))
        self.heads.copy_(self.space.some_slots(trajectories.trained(stored), val.n_way))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the stored head of the nearest task (B, D)."""
        return self.heads[torch.cdist(context.means.flatten(1), self.conditions).argmin(1)]
