"""How sharp the minimum is that a head was trained to: what sharpness-aware minimisation is for (Foret et al. 2021)."""

import torch
from torch import Tensor
from torch.func import grad, jvp

from ltdi.learners.base import Loss
from ltdi.tasks.batch import Batch


def largest_eigenvalue(
    loss: Loss, w: Tensor, batch: Batch, *, generator: torch.Generator, iterations: int = 50
) -> Tensor:
    """λ_max of each task's loss Hessian at its weights (B, D), the eigenvalue of largest size: (B,).

    By power iteration on Hessian-vector products, of all tasks at once: the summed loss has a block-diagonal Hessian.
    """
    gradient = grad(lambda w: loss(w, batch).sum())
    v = torch.randn(1, w.shape[-1], generator=generator, device=generator.device).to(w).expand_as(w)
    for _ in range(iterations):
        v = v / v.norm(dim=-1, keepdim=True)
        Hv = jvp(gradient, (w,), (v,))[1]
        v, rayleigh = Hv, (v * Hv).sum(-1)
    return rayleigh
