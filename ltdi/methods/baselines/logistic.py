"""Baseline: multinomial logistic regression on the support set, L2-regularised (Tian et al. 2020, "Rethinking Few-Shot
Image Classification: a Good Embedding Is All You Need?"), all tasks of a batch at once; C is chosen on meta-val.

Minimised is C Σ_i CE_i + ½ s² ‖W‖², biases free, with s the rows' root-mean-square distance from the task's centre: so
C means the same for features of any size, and the answers do not depend on it. The solution's rows lie in the span of
the M centred support rows, so it is sought among M × N numbers; in the coordinates of the rows' principal directions
Böhning's (1992) bound on the curvature is diagonal, and accelerated gradient steps (O'Donoghue and Candès 2015, which
start anew where they would climb) of that metric need no step size.
"""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import linear_classifier
from ltdi.learners.base import Classifier
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.nn import masked_mean

C_VALUES = tuple(10.0**e for e in range(-2, 3))
STEPS = 200


class Logistic(Method):
    needs = ("head",)
    c: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "logistic")
        self.register_buffer("c", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        def mean_score(c: float) -> float:
            return scores(self.head, val, lambda context: logistic_weights(self.head, context, c)).mean().item()

        self.c.fill_(max(C_VALUES, key=mean_score))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return logistic_weights(self.head, context, self.c.item())


def logistic_weights(head: Classifier, context: Context, c: float) -> Tensor:
    """(B, D)"""
    N, K = context.rows.shape[1:3]
    there = context.present.flatten(1).double()
    rows = context.rows.flatten(1, 2).double()
    centre = masked_mean(rows, there)[:, None]
    x = (rows - centre) * there[..., None]  # a row that is not there is a row of zeros, which moves nothing
    size = (x.square().sum((1, 2)) / there.sum(1)).sqrt().clamp_min(1e-12)[:, None, None]
    x = x / size
    # x = z @ basis, with orthonormal rows of the basis and zᵀz diagonal
    squares, u = torch.linalg.eigh(x @ x.mT)
    lengths = squares.clamp_min(0).sqrt()
    known = squares > 1e-9 * squares.amax(-1, keepdim=True)
    lengths = torch.where(known, lengths, 0.0)
    basis = torch.where(known, 1 / lengths, 0.0)[..., None] * (u.mT @ x)
    y = torch.eye(N, dtype=x.dtype, device=x.device).repeat_interleave(K, 0)
    v, b = _minimise(u * lengths[:, None], y, there, lengths.square(), c)
    weight = v.mT @ basis / size
    bias = b - (weight @ centre.mT).squeeze(-1)
    return head.linear(weight.to(context.rows), bias.to(context.rows))


def _minimise(z: Tensor, y: Tensor, there: Tensor, squares: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """The v (B, M, N) and b (B, N) of least c Σ_i CE(z_i v + b, y_i) + ½ ‖v‖², z (B, M, M) being centred and zᵀz
    diag(``squares``)."""
    inputs = torch.cat([z, torch.ones_like(z[..., :1])], -1)
    decay = torch.ones_like(inputs[:, 0, :, None])
    decay[:, -1] = 0
    curvature = c / 2 * torch.cat([squares, there.sum(1, keepdim=True)], -1)[..., None] + decay
    x = ahead = inputs.new_zeros(len(z), inputs.shape[-1], y.shape[-1])
    age = inputs.new_zeros(len(z), 1, 1)
    for _ in range(STEPS):
        error = ((inputs @ ahead).softmax(-1) - y) * there[..., None]
        gradient = c * inputs.mT @ error + decay * ahead
        new = ahead - gradient / curvature
        climbs = (gradient * (new - x)).sum((1, 2), keepdim=True) > 0
        age = torch.where(climbs, 0.0, age + 1)
        ahead = new + age / (age + 3) * (new - x)
        x = new
    return x[:, :-1], x[:, -1]
