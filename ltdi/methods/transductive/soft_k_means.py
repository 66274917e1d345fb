"""Soft k-means, a transductive baseline: class means refined by soft assignments of query rows, written as weights.

Ren et al. 2018, "Meta-Learning for Semi-Supervised Few-Shot Classification". Each unlabelled row f belongs to class n
by p_n = softmax(−τ‖f − m_n‖²); a class's mean is then that of its labelled rows and of the unlabelled ones, weighted by
p_n. Published is one round, through which the backbone is trained; here the backbone is frozen, and τ and the number of
rounds are selected on meta-val. With no round it is ``prototype``.
"""

from itertools import product

import torch
from torch import Tensor

from ltdi.initialization.closed_form import prototype_weights
from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, soft_class_means
from ltdi.tasks.base import Context

TEMPERATURES = tuple(2.0**e for e in range(-10, 3))
"""Candidates of τ."""
ROUNDS = (1, 3, 10)
"""Candidate numbers of rounds."""


class SoftKMeans(TransductiveMethod):
    """Nearest-mean classifier with softly assigned query rows."""

    candidates: tuple[Hyperparameters, ...] = tuple(
        {"temperature": t, "rounds": r} for t, r in product(TEMPERATURES, ROUNDS)
    )
    """Pairs of τ and number of rounds."""

    def weights(
        self, context: Context, unlabelled: Tensor, generator: torch.Generator, *, temperature: float, rounds: int
    ) -> Tensor:
        """Return the nearest-mean classifier (B, D) after ``rounds`` rounds; deterministic."""
        w = prototype_weights(self.head, context.means, temperature)
        for _ in range(rounds):
            shares = self.head.logits(w, unlabelled).softmax(-1)
            w = prototype_weights(self.head, soft_class_means(context, unlabelled, shares), temperature)
        return w
