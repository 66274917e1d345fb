"""Transductive baseline: assignments that neighbours agree on (Ziko et al. 2020, "Laplacian Regularized Few-Shot
Learning", LaplacianShot), written as weights.

Of rows at unit length, a_q are the squared distances to the rectified prototypes of BD-CSPN, which it takes too;
W joins each unlabelled row to its k nearest. y_q ← softmax(−a_q + λ Σ_p W_qp y_p), from y_q = softmax(−a_q), lowers the
bound of its equation (6) until nothing changes, here 20 times. It answers for these rows and makes no head: the weights
are the smallest that give the rows the assignments as logits, least squares where there are more rows than features.
k (published 3) and λ are chosen on meta-val.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, rectified_prototypes
from ltdi.tasks.base import Context
from ltdi.utils.nn import solved

EPSILON = 10.0
"""Of BD-CSPN, as published."""
ITERATIONS = 20
RIDGE = 1e-9
"""Of the rows' mean square, so that equal rows leave something to solve."""


class LaplacianShot(TransductiveMethod):
    candidates: tuple[Hyperparameters, ...] = tuple(
        {"neighbours": k, "regularization": s} for k, s in product((3, 5, 10), (0.1, 0.03, 0.3, 1.0))
    )

    def weights(
        self,
        context: Context,
        unlabelled: Tensor,
        generator: torch.Generator,
        *,
        neighbours: int,
        regularization: float,
    ) -> Tensor:
        y = assignments(context, unlabelled, neighbours=neighbours, regularization=regularization)
        weight = min_norm_weights(unlabelled, y)
        return self.head.linear(weight, weight.new_zeros(weight.shape[:2]))


def assignments(context: Context, unlabelled: Tensor, *, neighbours: int, regularization: float) -> Tensor:
    """y (B, U, N)"""
    prototypes, shift = rectified_prototypes(context, unlabelled, EPSILON)
    rows = F.normalize(unlabelled + shift[:, None], dim=-1)
    a, W = torch.cdist(rows, prototypes).square(), regularization * neighbour_graph(rows, neighbours)
    y = (-a).softmax(-1)
    for _ in range(ITERATIONS):
        y = (W @ y - a).softmax(-1)
    return y


def neighbour_graph(rows: Tensor, neighbours: int) -> Tensor:
    """1 where a row's line meets one of its nearest others, 0 elsewhere (B, U, U)."""
    distances = torch.cdist(rows, rows)
    distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = distances.topk(min(neighbours, rows.shape[1] - 1), largest=False).indices
    return torch.zeros_like(distances).scatter_(-1, nearest, 1.0)


def min_norm_weights(rows: Tensor, logits: Tensor) -> Tensor:
    """The smallest weight (B, N, F) with rows (B, U, F) @ weightᵀ = logits (B, U, N)."""
    x = rows.double()
    gram = x @ x.mT
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp_min(1e-30)
    return (solved(gram + RIDGE * size * identity, logits.double()).mT @ x).to(rows)
