"""Prototype baseline: nearest class mean (Snell et al. 2017) as weights, its temperature calibrated on meta-val."""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import calibrated_temperature, linear_classifier, prototype_weights
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories


class Prototype(Method):
    """Nearest-class-mean classifier of the support set."""

    needs = ("head", "examples")
    temperature: Tensor
    """Scale of the logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "prototype")
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Calibrate the temperature on meta-val."""
        temperature, _ = calibrated_temperature(
            self.head, val, lambda context: prototype_weights(self.head, context.means, 1.0)
        )
        self.temperature.fill_(temperature)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the prototype classifier of the support set as weights (B, D); deterministic."""
        return prototype_weights(self.head, context.means, self.temperature)
