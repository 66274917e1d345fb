"""Control: the mean of the training tasks' heads, cut to as many classes, whatever the support set says. Above chance only by accident."""

import torch
from torch import Tensor

from ltdi.methods.base import Method
from ltdi.tasks import Support, TaskSource
from ltdi.trajectories import Start, Trajectories


class MeanHead(Method):
    takes = ("n_way",)
    one_size = True

    def __init__(self, start: Start, *, n_way: int) -> None:
        super().__init__(start)
        self.register_buffer("mean", torch.zeros(self.space.dim(n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        self.mean.copy_(self.space.some_slots(trajectories.points[:, 0].mean(0), val.classes.shape[1]))

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self.mean.expand(len(support), -1)
