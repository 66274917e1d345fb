"""Baseline: the nearest mean of features of unit length, by the cosine (Wang et al. 2019, "SimpleShot: Revisiting
Nearest-Neighbor Classification for Few-Shot Learning", without its centring), written as weights.

A class is the direction of the mean of its rows at unit length. The largest cosine to N such directions is the largest
of N linear functions of the row as it is, f·c_n, because all share the row's own length: so it is a linear head,
whether or not the run's features have unit length already. Where they have, it differs from ``prototype`` for classes
of several images alone, whose means are shorter than one: directions do not prefer a class for its having fewer images.
The temperature is calibrated on meta-val.
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


class NearestUnit(Method):
    needs = ("head",)
    temperature: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "nearest_unit")
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        self.temperature.fill_(calibrated_temperature(self.head, val, lambda context: self._weights(context, 1.0))[0])

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self._weights(context, self.temperature)

    def _weights(self, context: Context, temperature: Scalar) -> Tensor:
        """(B, D)"""
        mean = masked_mean(F.normalize(context.rows, dim=-1), context.present)
        return self.head.linear(temperature * F.normalize(mean, dim=-1), mean.new_zeros(mean.shape[:2]))
