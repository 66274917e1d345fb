"""Baseline: the trained head, cut to as many classes, of the training task whose condition, the class means in label
order, is nearest."""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories

MOST_TASKS = 1000


class NearestHead(Method):
    """The first training tasks are kept, at most ``MOST_TASKS``."""

    fixed_n_way = True
    conditions: Tensor
    heads: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        n_tasks = min(setup.n_tasks, MOST_TASKS)
        self.register_buffer("conditions", torch.zeros(n_tasks, setup.n_way * self.learner.n_numbers))
        self.register_buffer("heads", torch.zeros(n_tasks, self.space.dim(setup.n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        kept = torch.arange(len(self.heads))
        # a few at a time: what is known of a task may be large
        means = [train.context(tasks).means[:, : val.n_way].flatten(1) for tasks in kept.split(64)]
        self.conditions.copy_(torch.cat(means))
        self.heads.copy_(self.space.some_slots(trajectories.trained(kept), val.n_way))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self.heads[torch.cdist(context.means.flatten(1), self.conditions).argmin(1)]
