"""LDA baseline: nearest class mean in the Mahalanobis metric of the training classes, written as weights.

Linear discriminant analysis (Fisher 1936) with the within-class covariance shrunk towards the identity (Ledoit & Wolf
2004). The covariance is pooled over the meta-training classes, assuming that new classes differ in their means only. It
is normalised to a mean variance of 1, so that full shrinkage is ``prototype``. Shrinkage, by accuracy, and then the
temperature are selected on meta-val.
"""

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import Scalar, calibrated_temperature, linear_classifier
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.trajectories.collection import Trajectories

SHRINKAGES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
"""Candidate shrinkages. Ties go to the first, the strongest."""


class Lda(Method):
    """Linear discriminant analysis with the covariance of the training classes."""

    needs = ("head", "classes")
    precision: Tensor
    """Inverse of the shrunk covariance (F, F)."""
    temperature: Tensor
    """Scale of the logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.head = linear_classifier(self.learner, "lda")
        self.register_buffer("precision", torch.eye(self.head.n_numbers))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))
        self.shrinkage = SHRINKAGES[0]

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Estimate the covariance on the training classes; select shrinkage and temperature on meta-val."""
        covariance = within_class_covariance(train).to(self.precision.device)

        def mean_score(shrinkage: float) -> float:
            precision = shrunk_inverse(covariance, shrinkage).to(self.precision)
            return scores(self.head, val, lambda context: self._weights(context, precision, 1.0)).mean().item()

        self.shrinkage = max(SHRINKAGES, key=mean_score)
        self.precision.copy_(shrunk_inverse(covariance, self.shrinkage))
        temperature, _ = calibrated_temperature(
            self.head, val, lambda context: self._weights(context, self.precision, 1.0)
        )
        self.temperature.fill_(temperature)

    def refit(self, train: TaskSource) -> None:
        """Estimate the covariance anew with the selected shrinkage."""
        self.precision.copy_(shrunk_inverse(within_class_covariance(train), self.shrinkage))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the LDA classifier of the support set as weights (B, D); deterministic."""
        return self._weights(context, self.precision, self.temperature)

    def _weights(self, context: Context, precision: Tensor, temperature: Scalar) -> Tensor:
        """Return weights (B, D) of the logits −τ(f − p_n)ᵀ P (f − p_n), without the terms that all classes share."""
        weight = 2 * temperature * context.means @ precision
        return self.head.linear(weight, -(weight * context.means).sum(-1) / 2)


def within_class_covariance(train: TaskSource) -> Tensor:
    """Estimate the within-class covariance over all classes, normalised to a mean variance of 1: (F, F).

    The identity if no class has two different rows.
    """
    scatter: Tensor | None = None
    for rows in train.by_class():
        away = rows - rows.mean(0)
        product = (away.mT @ away).double()
        scatter = product if scatter is None else scatter + product
    assert scatter is not None
    size = scatter.diagonal().mean()
    return scatter / size if size > 0 else torch.eye(len(scatter)).to(scatter)


def shrunk_inverse(covariance: Tensor, shrinkage: float) -> Tensor:
    """Return ((1 − shrinkage) Σ + shrinkage I)⁻¹ (F, F) of a covariance Σ (F, F)."""
    identity = torch.eye(len(covariance)).to(covariance)
    if shrinkage == 1:
        return identity
    return torch.cholesky_inverse(torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * identity))
