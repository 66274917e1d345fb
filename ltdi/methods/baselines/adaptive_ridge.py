"""Baseline: ridge regression whose penalty each task's own rows tell, by a map learned on meta-val
(``ltdi.initialization.adaptive_ridge``): the start of that name, without a generator."""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.adaptive_ridge import AdaptiveRidge as AdaptiveRidgeStart
from ltdi.initialization.adaptive_ridge import adaptive_ridge_weights
from ltdi.initialization.closed_form import linear_classifier
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories


class AdaptiveRidge(Method):
    needs = ("head", "examples")
    log_penalty: Tensor
    temperature: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "adaptive_ridge")
        self.register_buffer("log_penalty", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        fitted = AdaptiveRidgeStart(self.head, self.initialization.shared).calibrated(val)
        self.log_penalty.copy_(torch.tensor(fitted.log_penalty))
        self.temperature.fill_(fitted.temperature)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return adaptive_ridge_weights(self.head, context, self.log_penalty, self.temperature)
