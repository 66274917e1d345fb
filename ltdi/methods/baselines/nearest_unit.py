"""Cosine prototype baseline: nearest class mean of unit-length features by cosine similarity, written as weights.

SimpleShot (Wang et al. 2019, "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning") without
its centring, L2N. A class is the direction c_n of the mean of its rows at unit length. The class of the largest cosine
similarity is that of the largest f·c_n, because all classes share the length of f: the classifier is a linear head,
whether or not the run's features have unit length. If they have, it differs from ``prototype`` only for n_shot > 1,
where means are shorter than one: directions do not favour classes with fewer images. The temperature is calibrated on
meta-val.
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
    """Nearest class direction by cosine similarity."""

    needs = ("head",)
    temperature: Tensor
    """Scale of the logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "nearest_unit")
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Calibrate the temperature on meta-val."""
        self.temperature.fill_(calibrated_temperature(self.head, val, lambda context: self._weights(context, 1.0))[0])

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the cosine prototype classifier of the support set as weights (B, D); deterministic."""
        return self._weights(context, self.temperature)

    def _weights(self, context: Context, temperature: Scalar) -> Tensor:
        """Return weights (B, D) with logits of this temperature."""
        mean = masked_mean(F.normalize(context.rows, dim=-1), context.present)
        return self.head.linear(temperature * F.normalize(mean, dim=-1), mean.new_zeros(mean.shape[:2]))
