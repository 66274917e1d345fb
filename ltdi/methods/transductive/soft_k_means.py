"""Transductive baseline: the nearest mean, refined by soft assignments (Ren et al. 2018, "Meta-Learning for
Semi-Supervised Few-Shot Classification", soft k-means), written as weights.

Each unlabelled row f belongs to class n by p_n = softmax(−τ‖f − m_n‖²); a class's mean is then that of its labelled
rows and, by these shares, of the others. Published is one round, after which the body is trained through; here the body
is frozen, and τ and the number of rounds are chosen on meta-val. With no round it is the prototype.
"""

from itertools import product

import torch
from torch import Tensor

from ltdi.initialization.closed_form import prototype_weights
from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, soft_class_means
from ltdi.tasks.base import Context

TEMPERATURES = tuple(2.0**e for e in range(-10, 3))
ROUNDS = (1, 3, 10)


class SoftKMeans(TransductiveMethod):
    candidates: tuple[Hyperparameters, ...] = tuple(
        {"temperature": t, "rounds": r} for t, r in product(TEMPERATURES, ROUNDS)
    )

    def weights(
        self, context: Context, unlabelled: Tensor, generator: torch.Generator, *, temperature: float, rounds: int
    ) -> Tensor:
        w = prototype_weights(self.head, context.means, temperature)
        for _ in range(rounds):
            shares = self.head.logits(w, unlabelled).softmax(-1)
            w = prototype_weights(self.head, soft_class_means(context, unlabelled, shares), temperature)
        return w
