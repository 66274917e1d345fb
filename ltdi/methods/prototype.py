"""Control: the nearest class mean (Snell et al. 2017), written as weights; its temperature is calibrated on meta-val."""

import torch
from torch import Tensor

from ltdi.closed_form import calibrated_temperature, prototype_head
from ltdi.methods.base import Method
from ltdi.tasks import Support, TaskSource
from ltdi.trajectories import Start, Trajectories


class Prototype(Method):
    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        task = val.batch(torch.arange(len(val)))
        self.temperature.fill_(
            calibrated_temperature(self.head, prototype_head(self.head, task.support.class_means, 1.0), task.query)[0]
        )

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return prototype_head(self.head, support.class_means, self.temperature.item())
