"""Base class of transductive methods: unlabelled query rows as input, hyperparameters selected on meta-val."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import linear_classifier
from ltdi.meta_learning.model_selection import scores_on_new_tasks
from ltdi.methods.common.base import Method
from ltdi.tasks.base import Context
from ltdi.tasks.transductive_tasks import Transductive
from ltdi.utils.errors import InputError
from ltdi.utils.nn import masked_mean
from ltdi.utils.seeding import generator

Hyperparameters = Mapping[str, Any]
"""Keyword arguments of ``TransductiveMethod.weights``."""


class TransductiveMethod(Method):
    """A method whose head depends on the support set and on unlabelled query rows. Subclasses implement ``weights``.

    Raises:
        InputError: the learner's weights hold no linear classifier.
    """

    needs = ("head", "unlabelled")
    candidates: Sequence[Hyperparameters]
    """Candidate hyperparameters; the first ones are the default until ``choose`` selects others."""

    def __init__(self, initialization: Initialization) -> None:
        nn.Module.__init__(self)
        self.initialization = initialization
        self.head = linear_classifier(initialization.learner, type(self).__name__)
        self.hparams = self.candidates[0]

    def weights(self, context: Context, unlabelled: Tensor, *generator: Any, **hparams: Any) -> Tensor:
        """Compute weights (B, D) of a linear classifier.

        Args:
            context: support sets.
            unlabelled: query rows (B, U, F).
            generator: of the noise.
            hparams: a candidate's hyperparameters.
        """
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Compute ``weights`` (B, D) with the selected hyperparameters.

        Raises:
            InputError: the context has no unlabelled rows.
        """
        return self.weights(context, unlabelled_rows(context), generator, **self.hparams)

    def choose(self, val: Transductive, *, n_tasks: int, n_way: int, n_shot: int, seed: int) -> Self:
        """Select the hyperparameters of the highest accuracy on new meta-val tasks, ties to the first; return self."""

        def of_each(context: Context) -> list[Tensor]:
            rows = unlabelled_rows(context)
            return [self.weights(context, rows, generator(seed, "val noise"), **each) for each in self.candidates]

        stream = generator(seed, "transductive", n_shot)
        sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_shot": n_shot}
        found = scores_on_new_tasks(self.learner, val, of_each, stream=stream, **sizes).mean(1)
        self.hparams = self.candidates[int(found.argmax())]
        return self


def unlabelled_rows(context: Context) -> Tensor:
    """Return the context's unlabelled rows (B, U, F).

    Raises:
        InputError: the context has none.
    """
    if context.unlabelled is None:
        raise InputError("a transductive method needs the images to be classified, and there are none; name them")
    return context.unlabelled


def soft_class_means(context: Context, rows: Tensor, shares: Tensor) -> Tensor:
    """Average each class's labelled rows and unlabelled rows (B, U, F), weighted by ``shares`` (B, U, N): (B, N, F)."""
    present = context.present
    total = (context.rows * present[..., None]).sum(2) + shares.mT @ rows
    return total / (present.sum(2) + shares.sum(1))[..., None]


def rectified_prototypes(
    context: Context, rows: Tensor, epsilon: float, max_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the rectified prototypes of BD-CSPN at unit length (B, N, F), and the shift of unlabelled rows (B, F).

    Args:
        context: support sets.
        rows: unlabelled rows (B, U, F).
        epsilon: sharpness ε of the rows' weights exp(ε cos).
        max_rows: use only so many rows of the highest cosine similarity per class; None for all.
    """
    present = context.present
    shift = masked_mean(context.rows.flatten(1, 2), present.flatten(1)) - rows.mean(1)
    labelled, moved = F.normalize(context.rows, dim=-1), F.normalize(rows + shift[:, None], dim=-1)
    means = F.normalize(masked_mean(labelled, present), dim=-1)
    cosines = moved @ means.mT
    assigned = F.one_hot(cosines.argmax(-1), context.n_way).to(moved)
    if max_rows is not None:
        sure = cosines.masked_fill(assigned == 0, -2.0)
        assigned = assigned * (sure >= sure.topk(min(max_rows, rows.shape[1]), dim=1).values[:, -1:])
    # minus ε, a common factor: exp of a large ε would overflow
    of_labelled = (epsilon * ((labelled * means[:, :, None]).sum(-1) - 1)).exp() * present
    of_moved = (epsilon * (cosines - 1)).exp() * assigned
    total = (of_labelled[..., None] * labelled).sum(2) + of_moved.mT @ moved
    return F.normalize(total, dim=-1), shift
