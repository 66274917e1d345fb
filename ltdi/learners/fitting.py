"""Gradient training of many tasks' weights at once, recording the path.

Used to collect trajectories and by everything that fine-tunes. Tasks do not touch each other: the
summed loss has a block-diagonal Hessian, and both optimisers work number by number.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from ltdi.learners.base import AnalyticGradient, Learner, Loss
from ltdi.tasks.batch import Batch


@dataclass(frozen=True, eq=False)
class TrainingPath:
    """Weights (B, P, D) after each recorded step, in the order of training, the loss at each (B, P) and, where it costs
    nothing, the score on the same batch (B, P)."""

    weights: Tensor
    losses: Tensor
    scores: Tensor | None = None


def gradient(loss: Loss, w: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Each task's gradient at its weights (B, D), and its loss (B,)."""
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        losses = loss(w, batch)
        (g,) = torch.autograd.grad(losses.sum(), w)
    return g, losses.detach()


def sharpness_aware_gradient(loss: Loss, w: Tensor, batch: Batch, radius: float) -> tuple[Tensor, Tensor]:
    """The gradient at ŵ = w + ρ·g/‖g‖ (Foret et al. 2021; Algorithm 1), and the loss at w."""
    g, losses = gradient(loss, w, batch)
    ascent = radius * g / g.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return gradient(loss, w + ascent, batch)[0], losses


def adapt(
    loss: Loss,
    w: Tensor,
    batches: Iterator[Batch],
    *,
    optimizer: str,
    lr: float,
    record: Sequence[int],
    sam: float = 0.0,
) -> TrainingPath:
    """Train weights w (B, D) for ``max(record)`` steps, one item of ``batches`` a step.

    ``record`` holds the steps, in rising order, after which the weights are kept; 0 is the start.
    ``optimizer`` is "sgd" or "adam" (β 0.9, 0.999); ``sam`` the radius ρ, 0 for none.
    """
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    weights, losses = [], []
    for step in range(record[-1] + 1):
        batch = next(batches)
        if step == record[-1]:
            with torch.no_grad():
                g, values = None, loss(w, batch)
        elif sam > 0:
            g, values = sharpness_aware_gradient(loss, w, batch, sam)
        else:
            g, values = gradient(loss, w, batch)
        if step in record:
            weights.append(w)
            losses.append(values)
        if g is None:
            break
        if optimizer == "adam":
            m = torch.lerp(g, m, 0.9)
            v = torch.lerp(g.square(), v, 0.999)
            g = m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        w = w - lr * g
    return TrainingPath(torch.stack(weights, 1), torch.stack(losses, 1))


def train(
    learner: Learner,
    w: Tensor,
    batches: Iterator[Batch],
    *,
    optimizer: str,
    lr: float,
    record: Sequence[int],
    sam: float = 0.0,
    products: torch.dtype | None = None,
) -> TrainingPath:
    """``adapt`` of a learner's loss: the same path but for rounding, in place, where the gradient is written out. Then
    products of matrices may be in another format than ``w``: of a path that autograd finds, ``products`` is no part."""
    with torch.no_grad():
        written = learner.analytic_gradient(w, products)
        if written is None:
            return adapt(learner.loss, w, batches, optimizer=optimizer, lr=lr, record=record, sam=sam)
        update = _in_place(optimizer, written, lr)
        weights, losses, scores = [], [], []
        for step in range(record[-1] + 1):
            written.show(next(batches))
            written.forward()
            if step in record:
                weights.append(written.weights())
                losses.append(written.losses())
                scores.append(written.scores())
            if step == record[-1]:
                break
            written.backward()
            if sam > 0:
                _at_the_worst_neighbour(written, sam)
            update()
    return TrainingPath(torch.stack(weights, 1), torch.stack(losses, 1), torch.stack(scores, 1))


def _in_place(optimizer: str, written: AnalyticGradient, lr: float) -> Callable[[], object]:
    """A step of the optimiser on the gradient that is there."""
    w, g = written.numbers, written.gradient
    if optimizer == "sgd":
        return lambda: w.sub_(g, alpha=lr)
    m, v, step = torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device)
    # number by number, it does not mind whose they are; one pass over memory where ours takes eight
    hparams: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "lr": lr, "weight_decay": 0.0}
    return lambda: adam([w], [g], [m], [v], [], [step], fused=True, amsgrad=False, maximize=False, **hparams)


def _at_the_worst_neighbour(written: AnalyticGradient, radius: float) -> None:
    """The gradient at ŵ = w + ρ·g/‖g‖ in the place of the one at w."""
    here, g = written.numbers.clone(), written.parts(written.gradient)
    norm = torch.stack([part.flatten(1).square().sum(1) for part in g]).sum(0).sqrt()
    for part, slope in zip(written.parts(written.numbers), g):
        length = (radius / norm.clamp_min(1e-12)).view(-1, *[1] * (slope.dim() - 1))
        part.addcmul_(slope, length)
    written.forward()
    written.backward()
    written.numbers.copy_(here)
