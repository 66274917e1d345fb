"""Accuracy with its interval over tasks, paired differences, distances. Fractions, never percent."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (B, M, N), labels (B, M), negative where there is nothing to label -> the share that is right, a task
    (B,)."""
    there = labels >= 0
    return ((logits.argmax(-1) == labels) & there).sum(-1) / there.sum(-1)


def mean_and_ci95(values: Tensor) -> tuple[float, float]:
    """The mean over tasks and half the width of its 95 % interval (normal; 0 for a single task)."""
    values = values.double()
    if len(values) < 2:
        return values.mean().item(), 0.0
    return values.mean().item(), 1.96 * values.std().item() / math.sqrt(len(values))


def best_and_paired(own: Tensor, others: Mapping[str, Tensor]) -> tuple[str, dict[str, float]]:
    """The name of the best of ``others`` by its mean, and the mean of ``own`` − it over the same tasks, with its
    interval."""
    best = max(others, key=lambda name: others[name].double().mean().item())
    difference, ci95 = mean_and_ci95(own.double() - others[best].double())
    return best, {"difference": difference, "ci95": ci95}


def weight_mse(w: Tensor, trained: Tensor) -> Tensor:
    """Mean squared difference of weights (B, D) from the trained heads' (B, D), a task (B,)."""
    return (w - trained).square().mean(-1)


def nearest_mean_accuracy(means: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Accuracy (B,) of the nearest class mean; means (B, N, F), inputs (B, M, F), labels (B, M)."""
    return accuracy(-torch.cdist(inputs, means), labels)
