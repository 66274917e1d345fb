"""Control: the mean of the training tasks' heads, cut to as many classes, whatever the support set says. Above chance
only by accident."""

import torch
from torch import Tensor

from ltdi.initialization import Start
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource, batches
from ltdi.trajectories.collection import Trajectories


class MeanHead(Method):
    one_size = True
    mean: Tensor

    def __init__(self, start: Start, setup: Setup) -> None:
        super().__init__(start, setup)
        self.register_buffer("mean", torch.zeros(self.space.dim(setup.n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        total = torch.stack([trajectories.trained(tasks).double().sum(0) for tasks in batches(len(train))]).sum(0)
        self.mean.copy_(self.space.some_slots(total / len(train), val.n_way))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self.mean.expand(len(context), -1)
