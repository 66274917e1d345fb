"""Calibration of probabilities: a temperature by shots from meta-val tasks, and the expected calibration error (Guo et
al. 2017, "On Calibration of Modern Neural Networks")."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.learners.base import Classifier
from ltdi.methods.common.base import Method
from ltdi.tasks.base import NewTasks
from ltdi.utils.seeding import generator

SHOTS = (1, 2, 5)
"""Images per class that a temperature is fitted for."""
TASKS = 200
LOG_TEMPERATURES = torch.linspace(math.log(0.05), math.log(20), 400, dtype=torch.float64)


def expected_calibration_error(probabilities: Any, labels: Any, *, bins: int = 15) -> float:
    """The mean distance between confidence and accuracy over ``bins`` equal intervals of confidence, each weighted by
    how many images fall into it.

    Args:
        probabilities: (M, N), array or tensor.
        labels: the right column of each row (M,).
        bins: how many intervals.
    """
    shares, chosen = torch.as_tensor(probabilities).double().max(-1)
    right = (chosen == torch.as_tensor(labels)).double()
    # the upper end belongs to an interval, and 1 is in the last one
    places = (shares * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, shares - right)
    return (gaps.abs().sum() / len(shares)).item()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the smallest cross-entropy of logits (M, N) and labels (M,), by a grid from 0.05 to 20."""
    logits = logits.double()
    losses = [F.cross_entropy(logits / log_t.exp(), labels) for log_t in LOG_TEMPERATURES]
    return LOG_TEMPERATURES[int(torch.stack(losses).argmin())].exp().item()


@torch.no_grad()
def temperatures(method: Method, val: NewTasks, *, most_shots: int, n_way: int, seed: int = 0) -> dict[str, float]:
    """The temperature of a method's heads for each of ``SHOTS`` that the meta-val classes have images for, fitted on
    new meta-val tasks; none for what is no classifier of features."""
    learner = method.learner
    if not isinstance(learner, Classifier) or learner.from_images:
        return {}
    found = {}
    for n_shot in (each for each in SHOTS if each <= most_shots):
        stream, noise = generator(seed, "temperature", n_shot), generator(seed, "noise")
        logits, labels = [], []
        for part in val.parts:
            for names in part.draw(-(-TASKS // len(val.parts)), stream, n_way=n_way).split(64):
                task = part.new(names, stream, n_shot=n_shot)
                w = method.generate(task.context, generator=noise)
                logits.append(learner.logits(w, task.query["inputs"]).flatten(0, 1).cpu())
                labels.append(task.query["labels"].flatten().cpu())
        there = torch.cat(labels) >= 0
        found[str(n_shot)] = fit_temperature(torch.cat(logits)[there], torch.cat(labels)[there])
    return found


def temperature_for(of: Mapping[str, float], shots: Sequence[int]) -> float:
    """The temperature for a task whose classes have so many images: that of the nearest number, in its logarithm; 1
    where there is none."""
    if not of or not sum(shots):
        return 1.0
    mean = math.log(sum(shots) / len(shots))
    return of[min(of, key=lambda n_shot: abs(math.log(int(n_shot)) - mean))]
