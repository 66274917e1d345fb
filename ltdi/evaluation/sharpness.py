"""Sharpness of the minima of trained weights: what sharpness-aware minimisation reduces (Foret et al. 2021)."""

import torch
from torch import Tensor
from torch.func import grad, jvp

from ltdi.learners.base import Loss
from ltdi.tasks.batch import Batch


def largest_eigenvalue(
    loss: Loss, w: Tensor, batch: Batch, *, generator: torch.Generator, iterations: int = 50
) -> Tensor:
    """Compute λ_max, the eigenvalue of largest magnitude, of each task's loss Hessian at its weights: (B,).

    Power iteration on Hessian-vector products, all tasks at once: the Hessian of the summed loss is block-diagonal.

    Args:
        loss: (weights (B, D), batch) -> (B,).
        w: weights (B, D).
        batch: the data of the loss.
        generator: draws the first vector.
        iterations: number of power iterations.
    """
    gradient = grad(lambda w: loss(w, batch).sum())
    v = torch.randn(1, w.shape[-1], generator=generator, device=generator.device).to(w).expand_as(w)
    for _ in range(iterations):
        v = v / v.norm(dim=-1, keepdim=True)
        Hv = jvp(gradient, (w,), (v,))[1]
        v, rayleigh = Hv, (v * Hv).sum(-1)
    return rayleigh
