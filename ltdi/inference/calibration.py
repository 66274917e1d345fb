"""Calibration of probabilities: temperatures from meta-val tasks, and the expected calibration error (Guo et
al. 2017, "On Calibration of Modern Neural Networks")."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.learners.base import Classifier
from ltdi.methods.common.base import Method
from ltdi.tasks.base import TaskSource
from ltdi.utils.seeding import generator

WAYS, SHOTS = (5, 20), (1, 2, 5)
"""Classes, and images per class, that a temperature is fitted for."""
TASKS = 64
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
def temperatures(method: Method, val: TaskSource, *, n_way: int, seed: int = 0) -> list[dict[str, Any]]:
    """The temperature of a method's heads for each of ``WAYS`` and ``SHOTS`` that meta-val has classes and images for,
    fitted on new meta-val tasks: ``n_way``, ``n_shot`` and ``temperature``. None for what is no classifier of features.

    Args:
        method: of a run.
        val: its meta-val tasks.
        n_way: the classes of a task of a method that generates for one number alone.
        seed: of the tasks.
    """
    learner = method.learner
    if not isinstance(learner, Classifier) or learner.from_images:
        return []
    ways = (n_way,) if method.fixed_n_way else tuple(each for each in WAYS if each <= val.n_classes) or (n_way,)
    found = []
    for n_way, n_shot in ((way, shot) for way in ways for shot in SHOTS if shot <= val.most_shots):
        stream, noise = generator(seed, "temperature", n_way, n_shot), generator(seed, "noise")
        logits, labels = [], []
        for part in val.parts:
            for names in part.draw(-(-TASKS // len(val.parts)), stream, n_way=n_way).split(64):
                task = part.new(names, stream, n_shot=n_shot)
                w = method.generate(task.context, generator=noise)
                logits.append(learner.logits(w, task.query["inputs"]).flatten(0, 1).cpu())
                labels.append(task.query["labels"].flatten().cpu())
        there = torch.cat(labels) >= 0
        fitted = fit_temperature(torch.cat(logits)[there], torch.cat(labels)[there])
        found.append({"n_way": n_way, "n_shot": n_shot, "temperature": fitted})
    return found


def temperature_for(fitted: Sequence[Mapping[str, Any]], shots: Sequence[int]) -> float:
    """The temperature for a task whose classes have so many images: of the nearest number of classes, and there of the
    nearest number of images, both in their logarithms; 1 where none is fitted."""
    if not fitted or not sum(shots):
        return 1.0

    def distance(row: Mapping[str, Any]) -> tuple[float, float]:
        n_shot = sum(shots) / len(shots)
        return abs(math.log(row["n_way"] / len(shots))), abs(math.log(row["n_shot"] / n_shot))

    return float(min(fitted, key=distance)["temperature"])
