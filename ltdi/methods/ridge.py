"""Control: ridge regression on the support set (Bertinetto et al. 2019), its penalty chosen on meta-val."""

import torch
from torch import Tensor

from ltdi.closed_form import PENALTIES, ridge_head
from ltdi.methods.base import Method, query_accuracies
from ltdi.tasks import Support, TaskSource
from ltdi.trajectories import Start, Trajectories


class Ridge(Method):
    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.register_buffer("penalty", torch.tensor(1.0))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        scores = [
            query_accuracies(self, val, lambda s: ridge_head(self.head, s, penalty, 1.0)).mean().item()
            for penalty in PENALTIES
        ]
        self.penalty.fill_(PENALTIES[scores.index(max(scores))])

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return ridge_head(self.head, support, self.penalty.item(), 1.0)
