"""Baseline of the paper's protocol of domains, where a task's classes are those that were trained on: the ordinary
classifier of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ltdi.datasets import ImageSet
from ltdi.learners.base import Classifier
from ltdi.methods.baselines.logistic import C_VALUES, logistic_weights
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.errors import InputError


@dataclass(frozen=True, eq=False)
class Ordinary:
    """Logistic regression on every image of the training domains, all classes at once: weight (C, F), bias (C,), in the
    order of the classes that are asked."""

    learner: Classifier
    weight: Tensor
    bias: Tensor

    def weights(self, classes: Tensor) -> Tensor:
        """Restricted to a task's classes (B, N), as weights (B, D)."""
        return self.learner.linear(self.weight[classes], self.bias[classes])

    @classmethod
    def fit(cls, train: Any, sets: Mapping[str, Mapping[str, ImageSet]], learner: Any) -> Self:
        """C is chosen by the accuracy on each training domain of a fit on the others.

        Raises:
            InputError: a class that is asked was not trained on.
        """
        names = [each.split("/")[-1] for of in sets["meta_test"].values() for each in of.names]
        rows = iter(train.by_class())
        by_domain = [
            {name.split("/")[-1]: next(rows) for name in images.names} for images in sets["meta_train"].values()
        ]
        for name in names:
            if not all(name in domain for domain in by_domain):
                raise InputError(f"bench: the class {name} of the meta-test domain is not in every training domain")

        def right(held_out: int, c: float) -> float:
            weight, bias = _fitted(learner, by_domain[:held_out] + by_domain[held_out + 1 :], names, c)
            asked = [by_domain[held_out][name] for name in names]
            labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(each) for each in asked]))
            return ((torch.cat(asked) @ weight.T + bias).argmax(1).cpu() == labels).float().mean().item()

        best = max(C_VALUES, key=lambda c: sum(right(i, c) for i in range(len(by_domain))))
        return cls(learner, *_fitted(learner, by_domain, names, best))


def _fitted(
    learner: Classifier, by_domain: Sequence[Mapping[str, Tensor]], names: Sequence[str], c: float
) -> tuple[Tensor, Tensor]:
    """weight (C, F), bias (C,)"""
    rows = [torch.cat([domain[name] for domain in by_domain]) for name in names]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None]
    mask = torch.arange(padded.shape[2]) < torch.tensor([len(each) for each in rows])[None, :, None]
    w = logistic_weights(learner, context_of(padded, mask.to(padded.device)), c)
    tensors = learner.space.unflatten(w)
    return tensors["output.weight"][0], tensors["output.bias"][0]
