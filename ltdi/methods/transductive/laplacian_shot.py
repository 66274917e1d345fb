"""LaplacianShot, a transductive baseline: label assignments regularised by a nearest-neighbour graph of query rows.

Ziko et al. 2020, "Laplacian Regularized Few-Shot Learning". For rows at unit length, a_q are the squared distances to
the rectified prototypes of BD-CSPN; W connects each unlabelled row with its k nearest. The update
y_q ← softmax(−a_q + λ Σ_p W_qp y_p), from y_q = softmax(−a_q), minimises the bound of the paper's equation (6), here in
20 iterations. The method classifies the query rows without a head: the weights here are the minimum-norm weights whose
logits on these rows are the assignments, in the least-squares sense where there are more rows than features.
k (published 3) and λ are selected on meta-val.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, rectified_prototypes
from ltdi.tasks.base import Context
from ltdi.utils.nn import solved

EPSILON = 10.0
"""ε of BD-CSPN, as published."""
ITERATIONS = 20
"""Updates of the assignments."""
RIDGE = 1e-9
"""Ridge on the Gram matrix, in units of its mean diagonal, because equal rows make it singular."""


class LaplacianShot(TransductiveMethod):
    """Minimum-norm classifier of Laplacian-regularised assignments."""

    candidates: tuple[Hyperparameters, ...] = tuple(
        {"neighbours": k, "regularization": s} for k, s in product((3, 5, 10), (0.1, 0.03, 0.3, 1.0))
    )
    """Pairs of k and λ."""

    def weights(
        self,
        context: Context,
        unlabelled: Tensor,
        generator: torch.Generator,
        *,
        neighbours: int,
        regularization: float,
    ) -> Tensor:
        """Return the minimum-norm weights (B, D) of the assignments; deterministic."""
        y = assignments(context, unlabelled, neighbours=neighbours, regularization=regularization)
        weight = min_norm_weights(unlabelled, y)
        return self.head.linear(weight, weight.new_zeros(weight.shape[:2]))


def assignments(context: Context, unlabelled: Tensor, *, neighbours: int, regularization: float) -> Tensor:
    """Compute the soft assignments y (B, U, N) of unlabelled rows (B, U, F) to the classes.

    Args:
        context: support sets.
        unlabelled: query rows (B, U, F).
        neighbours: k of the graph.
        regularization: λ.
    """
    prototypes, shift = rectified_prototypes(context, unlabelled, EPSILON)
    rows = F.normalize(unlabelled + shift[:, None], dim=-1)
    a, W = torch.cdist(rows, prototypes).square(), regularization * neighbour_graph(rows, neighbours)
    y = (-a).softmax(-1)
    for _ in range(ITERATIONS):
        y = (W @ y - a).softmax(-1)
    return y


def neighbour_graph(rows: Tensor, neighbours: int) -> Tensor:
    """Build the graph (B, U, U): 1 in a row's line for each of its nearest neighbours, 0 elsewhere."""
    distances = torch.cdist(rows, rows)
    distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = distances.topk(min(neighbours, rows.shape[1] - 1), largest=False).indices
    return torch.zeros_like(distances).scatter_(-1, nearest, 1.0)


def min_norm_weights(rows: Tensor, logits: Tensor) -> Tensor:
    """Solve rows (B, U, F) @ weightᵀ = logits (B, U, N) for the weight (B, N, F) of minimum norm."""
    x = rows.double()
    gram = x @ x.mT
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp_min(1e-30)
    return (solved(gram + RIDGE * size * identity, logits.double()).mT @ x).to(rows)
