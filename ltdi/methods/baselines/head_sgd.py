"""Baselines: a few Adam steps on the support set. Steps and rate are chosen on meta-val.

``HeadSgd`` starts from one random head shared by all tasks: what one would do without meta-learning.
``PrototypeSgd`` starts from the nearest-mean classifier written as weights: what one would do knowing it.
"""

from itertools import product, repeat
from typing import ClassVar

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import calibrated_temperature, linear_classifier, prototype_weights
from ltdi.learners.fitting import train
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories

STEPS = (5, 20, 100)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


class HeadSgd(Method):
    needs: ClassVar[tuple[str, ...]] = ("examples",)
    adapts = fixed_n_way = True
    initial: Tensor
    steps: Tensor
    lr: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.register_buffer("initial", initialization.shared.clone())
        self.register_buffer("steps", torch.tensor(STEPS[0]))
        self.register_buffer("lr", torch.tensor(RATES[0], dtype=torch.float64))

    def initial_weights(self, context: Context) -> Tensor:
        """The weights (B, D) that training starts from."""
        return self.initial.expand(len(context), -1)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        means = {}
        for steps, lr in product(STEPS, RATES):

            def weights_of(context: Context, steps: int = steps, lr: float = lr) -> Tensor:
                return self._adapt(context, steps, lr)

            means[steps, lr] = scores(self.learner, val, weights_of).mean().item()
        steps, lr = max(means, key=means.__getitem__)
        self.steps.fill_(steps)
        self.lr.fill_(lr)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self._adapt(context, int(self.steps), self.lr.item())

    def _adapt(self, context: Context, steps: int, lr: float) -> Tensor:
        assert context.examples is not None
        examples = repeat(context.examples)
        w = self.initial_weights(context)
        return train(self.learner, w, examples, optimizer="adam", lr=lr, record=[steps]).weights[:, 0]


class PrototypeSgd(HeadSgd):
    needs = ("head", "examples")
    fixed_n_way = False
    temperature: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "prototype_sgd")
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def initial_weights(self, context: Context) -> Tensor:
        return prototype_weights(self.head, context.means, self.temperature)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        temperature, _ = calibrated_temperature(
            self.head, val, lambda context: prototype_weights(self.head, context.means, 1.0)
        )
        self.temperature.fill_(temperature)
        super().prepare(train, trajectories, val)
