"""Ridge baseline: ridge regression on the support set (Bertinetto et al. 2019), its penalty selected on meta-val."""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import PENALTIES, linear_classifier, ridge_weights
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories


class Ridge(Method):
    """Ridge regression on the support set's one-hot labels."""

    needs = ("head", "examples")
    penalty: Tensor
    """The selected penalty."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "ridge")
        self.register_buffer("penalty", torch.tensor(1.0))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Select the penalty by the score on meta-val."""

        def mean_score(penalty: float) -> float:
            return scores(self.head, val, lambda c: ridge_weights(self.head, c, penalty, 1.0)).mean().item()

        self.penalty.fill_(max(PENALTIES, key=mean_score))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the ridge classifier of the support set as weights (B, D); deterministic."""
        return ridge_weights(self.head, context, self.penalty, 1.0)
