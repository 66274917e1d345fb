"""Adaptive ridge baseline: ridge regression with a penalty predicted from the support set.

The map from support-set statistics to the penalty is fitted on meta-val (``ltdi.initialization.adaptive_ridge``): the
initialization of that name, without a generator.
"""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.adaptive_ridge import AdaptiveRidge as AdaptiveRidgeInitialization
from ltdi.initialization.adaptive_ridge import adaptive_ridge_weights
from ltdi.initialization.closed_form import linear_classifier
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories


class AdaptiveRidge(Method):
    """Ridge regression on the support set with a task-dependent penalty."""

    needs = ("head", "examples")
    log_penalty: Tensor
    """Coefficients of the log-penalty in the support-set statistics (4,)."""
    temperature: Tensor
    """Scale of the logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "adaptive_ridge")
        self.register_buffer("log_penalty", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit the penalty's coefficients and the temperature on meta-val."""
        fitted = AdaptiveRidgeInitialization(self.head, self.initialization.shared).calibrated(val)
        self.log_penalty.copy_(torch.tensor(fitted.log_penalty))
        self.temperature.fill_(fitted.temperature)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the ridge classifier of the support set as weights (B, D); deterministic."""
        return adaptive_ridge_weights(self.head, context, self.log_penalty, self.temperature)
