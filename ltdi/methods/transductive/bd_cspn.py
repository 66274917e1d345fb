"""BD-CSPN, a transductive baseline: prototypes rectified by pseudo-labelled query rows, written as weights.

Liu et al. 2020, "Prototype Rectification for Few-Shot Learning". The unlabelled rows are shifted by ξ, the mean of the
labelled rows minus theirs, and each is assigned to the class of the largest cosine similarity to its prototype. A
class's new prototype is the mean of its labelled rows and of the Z assigned rows of the highest similarity, weighted by
exp(ε cos). The class of the largest cosine similarity of a shifted row to unit-length prototypes c_n is that of the
largest (f + ξ)·c_n: a linear head. ε, published as 10, and Z are selected on meta-val.
"""

from itertools import product

import torch
from torch import Tensor

from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, rectified_prototypes
from ltdi.tasks.base import Context

EPSILONS = (10.0, 5.0, 20.0, 40.0)
"""Candidates of ε."""
MAX_ROWS = (None, 8)
"""Candidates of Z; None for all rows assigned to a class."""


class BdCspn(TransductiveMethod):
    """Classifier of rectified prototypes."""

    candidates: tuple[Hyperparameters, ...] = tuple(
        {"epsilon": epsilon, "max_rows": max_rows} for epsilon, max_rows in product(EPSILONS, MAX_ROWS)
    )
    """Pairs of ε and Z."""

    def weights(
        self, context: Context, unlabelled: Tensor, generator: torch.Generator, *, epsilon: float, max_rows: int | None
    ) -> Tensor:
        """Return the cosine classifier of the rectified prototypes (B, D); deterministic."""
        prototypes, shift = rectified_prototypes(context, unlabelled, epsilon, max_rows)
        return self.head.linear(prototypes, (prototypes @ shift[..., None]).squeeze(-1))
