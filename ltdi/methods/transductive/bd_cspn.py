"""Transductive baseline: rectified prototypes (Liu et al. 2020, "Prototype Rectification for Few-Shot Learning",
BD-CSPN), written as weights.

The unlabelled rows are moved by ξ, the mean of the labelled ones − theirs, and each is given to the class of the
largest cosine to its prototype. A class's new prototype is the mean of its labelled rows and of the Z given ones that
are surest, weighted by exp(ε cos). The largest cosine of a moved row to a prototype of unit length c_n is the largest
of (f + ξ)·c_n, so it is a linear head. ε, published as 10, and Z are chosen on meta-val.
"""

from itertools import product

import torch
from torch import Tensor

from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, rectified_prototypes
from ltdi.tasks.base import Context

EPSILONS = (10.0, 5.0, 20.0, 40.0)
MOST = (None, 8)
"""None: every row that is given to a class."""


class BdCspn(TransductiveMethod):
    candidates: tuple[Hyperparameters, ...] = tuple(
        {"epsilon": epsilon, "most": most} for epsilon, most in product(EPSILONS, MOST)
    )

    def weights(
        self, context: Context, unlabelled: Tensor, generator: torch.Generator, *, epsilon: float, most: int | None
    ) -> Tensor:
        prototypes, shift = rectified_prototypes(context, unlabelled, epsilon, most)
        return self.head.linear(prototypes, (prototypes @ shift[..., None]).squeeze(-1))
