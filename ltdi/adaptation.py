"""Gradient training of many tasks' weights at once, recording the path.

Used to collect trajectories and by everything that fine-tunes. Tasks do not touch each other: the
summed loss has a block-diagonal Hessian, and both optimisers work number by number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltdi.heads import Forward, task_losses


@dataclass(frozen=True, eq=False)
class Path:
    """Weights (B, P, D) after each recorded step, in the order of training, and the loss at each (B, P)."""

    weights: Tensor
    losses: Tensor


def gradient(forward: Forward, w: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each task's gradient at its weights (B, D), and its loss (B,)."""
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        losses = task_losses(forward, w, inputs, labels)
        (g,) = torch.autograd.grad(losses.sum(), w)
    return g, losses.detach()


def sharpness_aware_gradient(
    forward: Forward, w: Tensor, inputs: Tensor, labels: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """The gradient at ŵ = w + ρ·g/‖g‖ (Foret et al. 2021; Algorithm 1), and the loss at w."""
    g, losses = gradient(forward, w, inputs, labels)
    ascent = radius * g / g.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return gradient(forward, w + ascent, inputs, labels)[0], losses


def adapt(
    forward: Forward,
    w: Tensor,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    optimizer: str,
    lr: float,
    record: Sequence[int],
    sam: float = 0.0,
) -> Path:
    """Train weights w (B, D) for ``max(record)`` steps, one item of ``batches`` (inputs, labels) a step.

    ``record`` holds the steps, in rising order, after which the weights are kept; 0 is the start.
    ``optimizer`` is "sgd" or "adam" (β 0.9, 0.999); ``sam`` the radius ρ, 0 for none.
    """
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    weights, losses = [], []
    for step in range(record[-1] + 1):
        inputs, labels = next(batches)
        if step == record[-1]:
            with torch.no_grad():
                g, loss = None, task_losses(forward, w, inputs, labels)
        elif sam > 0:
            g, loss = sharpness_aware_gradient(forward, w, inputs, labels, sam)
        else:
            g, loss = gradient(forward, w, inputs, labels)
        if step in record:
            weights.append(w)
            losses.append(loss)
        if g is None:
            break
        if optimizer == "adam":
            m = torch.lerp(g, m, 0.9)
            v = torch.lerp(g.square(), v, 0.999)
            g = m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        w = w - lr * g
    return Path(torch.stack(weights, 1), torch.stack(losses, 1))
