"""Gradient-descent baselines: a few Adam steps on the support set, from a random head or from the prototype classifier.

The number of steps and the learning rate are selected on meta-val.
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
"""Candidate numbers of steps."""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Candidate learning rates."""


class HeadSgd(Method):
    """Adam steps from one random head shared by all tasks: training without meta-learning."""

    needs: ClassVar[tuple[str, ...]] = ("examples",)
    """Requirements of the method."""
    adapts = fixed_n_way = True
    initial: Tensor
    """The shared initial head (D,)."""
    steps: Tensor
    """Selected number of steps."""
    lr: Tensor
    """Selected learning rate."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.register_buffer("initial", initialization.shared.clone())
        self.register_buffer("steps", torch.tensor(STEPS[0]))
        self.register_buffer("lr", torch.tensor(RATES[0], dtype=torch.float64))

    def initial_weights(self, context: Context) -> Tensor:
        """Return the weights (B, D) that adaptation starts from."""
        return self.initial.expand(len(context), -1)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Select the number of steps and the learning rate by the score on meta-val."""
        means = {}
        for steps, lr in product(STEPS, RATES):

            def weights_of(context: Context, steps: int = steps, lr: float = lr) -> Tensor:
                return self._adapt(context, steps, lr)

            means[steps, lr] = scores(self.learner, val, weights_of).mean().item()
        steps, lr = max(means, key=means.__getitem__)
        self.steps.fill_(steps)
        self.lr.fill_(lr)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Adapt ``initial_weights`` on the support set: (B, D); deterministic."""
        return self._adapt(context, int(self.steps), self.lr.item())

    def _adapt(self, context: Context, steps: int, lr: float) -> Tensor:
        assert context.examples is not None
        examples = repeat(context.examples)
        w = self.initial_weights(context)
        return train(self.learner, w, examples, optimizer="adam", lr=lr, record=[steps]).weights[:, 0]


class PrototypeSgd(HeadSgd):
    """Adam steps from the prototype classifier written as weights."""

    needs = ("head", "examples")
    fixed_n_way = False
    temperature: Tensor
    """Scale of the prototype classifier's logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "prototype_sgd")
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def initial_weights(self, context: Context) -> Tensor:
        """Return the prototype classifier of the support set as weights (B, D)."""
        return prototype_weights(self.head, context.means, self.temperature)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Calibrate the temperature, then select steps and learning rate, on meta-val."""
        temperature, _ = calibrated_temperature(
            self.head, val, lambda context: prototype_weights(self.head, context.means, 1.0)
        )
        self.temperature.fill_(temperature)
        super().prepare(train, trajectories, val)
