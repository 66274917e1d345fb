"""Mean-head baseline: the mean of the training tasks' trained heads, regardless of the support set; at chance level."""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource, batches
from ltdi.trajectories.collection import Trajectories


class MeanHead(Method):
    """The mean trained head for every task."""

    fixed_n_way = True
    mean: Tensor
    """The mean head (D,)."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.register_buffer("mean", torch.zeros(self.space.dim(setup.n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Average the trained heads of the train tasks, cut to the n_way of meta-val."""
        total = torch.stack([trajectories.trained(tasks).double().sum(0) for tasks in batches(len(train))]).sum(0)
        self.mean.copy_(self.space.some_slots(total / len(train), val.n_way))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the mean head for each task (B, D)."""
        return self.mean.expand(len(context), -1)
