"""Logistic-regression baseline: L2-regularised multinomial regression on the support set, all tasks of a batch at once.

Tian et al. 2020, "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?". The inverse
regularization C is selected on meta-val.

The objective is C Σ_i CE_i + ½ s² ‖W‖² with unpenalised biases, s the rows' root-mean-square distance from the task's
centre: predictions do not depend on the scale of the features. The solution's rows lie in the span of the M centred
support rows, so that M × N numbers are optimised; in the coordinates of the rows' principal directions Böhning's (1992)
bound on the curvature is diagonal, and accelerated gradient steps in that metric (O'Donoghue & Candès 2015, restarted
where the objective would increase) need no step size.
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
"""Candidates of C."""
STEPS = 200
"""Optimization steps."""


class Logistic(Method):
    """Logistic regression on the support set."""

    needs = ("head",)
    c: Tensor
    """The selected inverse regularization C."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "logistic")
        self.register_buffer("c", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Select C by the score on meta-val."""

        def mean_score(c: float) -> float:
            return scores(self.head, val, lambda context: logistic_weights(self.head, context, c)).mean().item()

        self.c.fill_(max(C_VALUES, key=mean_score))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the logistic classifier of the support set as weights (B, D); deterministic."""
        return logistic_weights(self.head, context, self.c.item())


def logistic_weights(head: Classifier, context: Context, c: float) -> Tensor:
    """Fit logistic regression on each task's support set; return it as weights (B, D) of the learner.

    Args:
        head: learner of a linear classifier.
        context: support sets.
        c: inverse regularization C.
    """
    N, K = context.rows.shape[1:3]
    there = context.present.flatten(1).double()
    rows = context.rows.flatten(1, 2).double()
    centre = masked_mean(rows, there)[:, None]
    x = (rows - centre) * there[..., None]  # padding becomes rows of zeros, which have no effect
    size = (x.square().sum((1, 2)) / there.sum(1)).sqrt().clamp_min(1e-12)[:, None, None]
    x = x / size
    # x = z @ basis, with orthonormal rows of the basis and zᵀz diagonal
    squares, u = torch.linalg.eigh(x @ x.mT)
    lengths = squares.clamp_min(0).sqrt()
    nonzero = squares > 1e-9 * squares.amax(-1, keepdim=True)
    lengths = torch.where(nonzero, lengths, 0.0)
    basis = torch.where(nonzero, 1 / lengths, 0.0)[..., None] * (u.mT @ x)
    y = torch.eye(N, dtype=x.dtype, device=x.device).repeat_interleave(K, 0)
    v, b = _minimise(u * lengths[:, None], y, there, lengths.square(), c)
    weight = v.mT @ basis / size
    bias = b - (weight @ centre.mT).squeeze(-1)
    return head.linear(weight.to(context.rows), bias.to(context.rows))


def _minimise(z: Tensor, y: Tensor, there: Tensor, squares: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Minimise c Σ_i CE(z_i v + b, y_i) + ½ ‖v‖² over v (B, M, N) and b (B, N).

    Args:
        z: centred inputs (B, M, M) with zᵀz = diag(``squares``).
        y: one-hot labels (M, N).
        there: 1 for a row, 0 for padding (B, M).
        squares: (B, M).
        c: inverse regularization C.
    """
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
