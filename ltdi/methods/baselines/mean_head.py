"""Baseline: the mean of the training tasks' heads, cut to as many classes, whatever the support set says. Above chance
only by accident."""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource, batches
from ltdi.trajectories.collection import Trajectories


class MeanHead(Method):
    fixed_n_way = True
    mean: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.register_buffer("mean", torch.zeros(self.space.dim(setup.n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        total = torch.stack([trajectories.trained(tasks).double().sum(0) for tasks in batches(len(train))]).sum(0)
        self.mean.copy_(self.space.some_slots(total / len(train), val.n_way))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self.mean.expand(len(context), -1)
