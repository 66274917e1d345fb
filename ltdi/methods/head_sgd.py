"""Controls: a few Adam steps on the support set. Steps and rate are chosen on meta-val.

``HeadSgd`` starts from one random head shared by all tasks: what one would do without meta-learning.
``PrototypeSgd`` starts from the nearest-mean classifier written as weights: what one would do knowing it.
"""

from itertools import product, repeat

import torch
from torch import Tensor

from ltdi.adaptation import adapt
from ltdi.closed_form import calibrated_temperature, prototype_head
from ltdi.methods.base import Method, query_accuracies
from ltdi.tasks import Support, TaskSource
from ltdi.trajectories import Start, Trajectories

STEPS = (5, 20, 100)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


class HeadSgd(Method):
    adapts = one_size = True

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.register_buffer("initial", start.shared.clone())
        self.register_buffer("steps", torch.tensor(STEPS[0]))
        self.register_buffer("lr", torch.tensor(RATES[0], dtype=torch.float64))

    def first(self, support: Support) -> Tensor:
        """The weights (B, D) that training starts from."""
        return self.initial.expand(len(support), -1)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        scores = {
            (steps, lr): query_accuracies(self, val, lambda s: self._adapt(s, steps, lr)).mean().item()
            for steps, lr in product(STEPS, RATES)
        }
        steps, lr = max(scores, key=scores.get)
        self.steps.fill_(steps)
        self.lr.fill_(lr)

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self._adapt(support, int(self.steps), self.lr.item())

    def _adapt(self, support: Support, steps: int, lr: float) -> Tensor:
        return adapt(
            self.head, self.first(support), repeat(support.labelled), optimizer="adam", lr=lr, record=[steps]
        ).weights[:, 0]


class PrototypeSgd(HeadSgd):
    one_size = False

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def first(self, support: Support) -> Tensor:
        return prototype_head(self.head, support.class_means, self.temperature.item())

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        task = val.batch(torch.arange(len(val)))
        self.temperature.fill_(
            calibrated_temperature(self.head, prototype_head(self.head, task.support.class_means, 1.0), task.query)[0]
        )
        super().prepare(train, trajectories, val)
