"""ESZSL baseline (Romera-Paredes & Torr 2015, "An embarrassingly simple approach to zero-shot learning").

A bilinear score f·V·s of an image's features and a class's signature, in closed form over the images of the training
classes: V = (XᵀX + γI)⁻¹ XᵀYS (SᵀS + λI)⁻¹, with images X (R, F), labels Y (R, C) of ±1 and signatures S (C, E).
Features are centred on the mean row, signatures are text embeddings of unit length; γ and λ are selected on meta-val.
Where classes have a row of a trained classifier and no images, the row is the class's only image.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context
from ltdi.tasks.named_class_tasks import NamedClassTasks

SHRINKAGES = tuple(10.0**e for e in range(-3, 4))
"""Candidates of γ and λ, in units of the mean eigenvalue of their Gram matrix."""


class Eszsl(ClassSemanticsMethod):
    """Bilinear zero-shot classifier; hyperparameters are (γ, λ)."""

    candidates = tuple(product(SHRINKAGES, SHRINKAGES))
    bilinear: Tensor
    """V (F, E)."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.register_buffer("bilinear", torch.zeros(self.head.n_features, self.head.n_numbers))

    def fit(self, train: NamedClassTasks) -> None:
        """Store the training classes and decompose both Gram matrices."""
        super().fit(train)
        of = train.of
        x, counts = of.mapped(of.features[: of.n_rows]), of.counts.to(of.features.device)
        if of.rows is not None:
            x, counts = of.means(), torch.ones_like(counts)
        x = (x - self.table.mean).double()
        sums = counts[:, None] * self.table.centred.double()
        # labels of ±1: twice a class's sum, less the sum over all classes
        correlations, signatures = (2 * sums - sums.sum(0)).mT, F.normalize(self.texts, dim=-1).double()
        # V in the eigenvectors of both Gram matrices, for any γ and λ
        self._left, self._right = torch.linalg.eigh(x.mT @ x), torch.linalg.eigh(signatures.mT @ signatures)
        self._middle = self._left[1].mT @ correlations @ signatures @ self._right[1]

    def _set(self, hparams: tuple[float, ...]) -> None:
        super()._set(hparams)
        (left, u), (right, v) = self._left, self._right
        gamma, lam = hparams[0] * left.mean(), hparams[1] * right.mean()
        self.bilinear.copy_(u @ (self._middle / (left + gamma)[:, None] / (right + lam)) @ v.mT)

    def directions(self, context: Context) -> Tensor:
        """Return V·s of the classes' signatures: (B, N, F)."""
        return F.normalize(context.means, dim=-1) @ self.bilinear.mT

    def weights(self, context: Context) -> Tensor:
        """Build a linear classifier (B, D) from ``directions`` with their lengths, as published."""
        # scaled by ‖V‖ into the range of the candidate temperatures
        weight = self.temperature.item() * self.directions(context) / self.bilinear.norm()
        return self.head.linear(weight, -(weight @ self.table.mean))
