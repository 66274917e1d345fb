"""Baseline: the nearest mean of features centred on the training mean and of unit length (Wang et al. 2019,
"SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning", CL2N), written as weights.

A class is the direction of the mean of its rows, each less the mean μ of all meta-training rows and at unit length. The
largest cosine is the largest of the linear functions (f − μ)·c_n, because all share the length of f − μ: so it is a
linear head on the run's features as they are. Where these are centred and of unit length already, this is done once
more, on the little that is left of their mean. Published is the distance to the mean itself; for classes of one image
each that is the same, and directions do not prefer a class for its having fewer images. The temperature is calibrated
on meta-val.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import Scalar, calibrated_temperature, linear_classifier
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.nn import masked_mean


class SimpleShot(Method):
    needs = ("head", "classes")
    mean: Tensor
    temperature: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "simpleshot")
        self.register_buffer("mean", torch.zeros(self.head.n_numbers))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        self.refit(train)
        self.temperature.fill_(calibrated_temperature(self.head, val, lambda context: self._weights(context, 1.0))[0])

    def refit(self, train: TaskSource) -> None:
        total, n = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for rows in train.by_class():
            total += rows.double().sum(0)
            n += len(rows)
        self.mean.copy_(total / n)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self._weights(context, self.temperature)

    def _weights(self, context: Context, temperature: Scalar) -> Tensor:
        """(B, D)"""
        mean = masked_mean(F.normalize(context.rows - self.mean, dim=-1), context.present)
        weight = temperature * F.normalize(mean, dim=-1)
        return self.head.linear(weight, -(weight @ self.mean))
