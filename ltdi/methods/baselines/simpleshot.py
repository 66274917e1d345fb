"""SimpleShot baseline (CL2N): nearest class mean of centred, unit-length features, written as weights.

Wang et al. 2019, "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning". A class is the
direction c_n of the mean of its rows, each centred on the mean μ of all meta-training rows and scaled to unit length.
The class of the largest cosine similarity is that of the largest (f − μ)·c_n, because all classes share the length of
f − μ: the classifier is a linear head on the run's features. If these are centred and of unit length already, both are
applied once more. Published is the distance to the mean itself; for n_shot = 1 that is the same, and directions do not
favour classes with fewer images. The temperature is calibrated on meta-val.
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
    """Nearest class direction in centred features."""

    needs = ("head", "classes")
    mean: Tensor
    """Mean μ of all training rows (F,)."""
    temperature: Tensor
    """Scale of the logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "simpleshot")
        self.register_buffer("mean", torch.zeros(self.head.n_numbers))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Estimate the training mean and calibrate the temperature on meta-val."""
        self.refit(train)
        self.temperature.fill_(calibrated_temperature(self.head, val, lambda context: self._weights(context, 1.0))[0])

    def refit(self, train: TaskSource) -> None:
        """Estimate the mean of all rows of the classes of ``train``."""
        total, n = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for rows in train.by_class():
            total += rows.double().sum(0)
            n += len(rows)
        self.mean.copy_(total / n)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the SimpleShot classifier of the support set as weights (B, D); deterministic."""
        return self._weights(context, self.temperature)

    def _weights(self, context: Context, temperature: Scalar) -> Tensor:
        """Return weights (B, D) with logits of this temperature."""
        mean = masked_mean(F.normalize(context.rows - self.mean, dim=-1), context.present)
        weight = temperature * F.normalize(mean, dim=-1)
        return self.head.linear(weight, -(weight @ self.mean))
