"""What transductive methods share: they see what is to be classified, unlabelled, and choose their hyperparameters on
tasks where that is known."""

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


class TransductiveMethod(Method):
    """A head for labelled rows and unlabelled ones, which are to be classified by it. A subclass writes ``weights`` and
    the ``candidates`` of its hyperparameters, of which the first are taken until ``choose`` has compared them.

    Raises:
        InputError: the learner's weights hold no linear classifier.
    """

    needs = ("head", "unlabelled")
    candidates: Sequence[Hyperparameters]

    def __init__(self, initialization: Initialization) -> None:
        nn.Module.__init__(self)
        self.initialization = initialization
        self.head = linear_classifier(initialization.learner, type(self).__name__)
        self.hparams = self.candidates[0]

    def weights(self, context: Context, unlabelled: Tensor, *generator: Any, **hparams: Any) -> Tensor:
        """(B, D), of the unlabelled rows (B, U, F), one generator and the hyperparameters of a candidate."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self.weights(context, unlabelled_rows(context), generator, **self.hparams)

    def choose(self, val: Transductive, *, n_tasks: int, n_way: int, n_shot: int, seed: int) -> Self:
        """With the hyperparameters of the highest accuracy on new tasks of meta-val; of equals the first."""

        def of_each(context: Context) -> list[Tensor]:
            rows = unlabelled_rows(context)
            return [self.weights(context, rows, generator(seed, "val noise"), **each) for each in self.candidates]

        stream = generator(seed, "transductive", n_shot)
        sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_shot": n_shot}
        found = scores_on_new_tasks(self.learner, val, of_each, stream=stream, **sizes).mean(1)
        self.hparams = self.candidates[int(found.argmax())]
        return self


def unlabelled_rows(context: Context) -> Tensor:
    """
    Raises:
        InputError: the context has none.
    """
    if context.unlabelled is None:
        raise InputError("a transductive method needs the images to be classified, and there are none; name them")
    return context.unlabelled


def soft_class_means(context: Context, rows: Tensor, shares: Tensor) -> Tensor:
    """Of each class (B, N, F): its labelled rows and of the others (B, U, F) as much as their ``shares`` (B, U, N)."""
    present = context.present
    total = (context.rows * present[..., None]).sum(2) + shares.mT @ rows
    return total / (present.sum(2) + shares.sum(1))[..., None]


def rectified_prototypes(
    context: Context, rows: Tensor, epsilon: float, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """The prototypes of BD-CSPN at unit length (B, N, F), of all unlabelled rows (B, U, F) or the ``most`` that are
    surest of each class, and how far these rows are moved (B, F)."""
    present = context.present
    shift = masked_mean(context.rows.flatten(1, 2), present.flatten(1)) - rows.mean(1)
    labelled, moved = F.normalize(context.rows, dim=-1), F.normalize(rows + shift[:, None], dim=-1)
    means = F.normalize(masked_mean(labelled, present), dim=-1)
    cosines = moved @ means.mT
    given = F.one_hot(cosines.argmax(-1), context.n_way).to(moved)
    if most is not None:
        sure = cosines.masked_fill(given == 0, -2.0)
        given = given * (sure >= sure.topk(min(most, rows.shape[1]), dim=1).values[:, -1:])
    # less ε, which all share: exp of a large one would have no number
    of_labelled = (epsilon * ((labelled * means[:, :, None]).sum(-1) - 1)).exp() * present
    of_moved = (epsilon * (cosines - 1)).exp() * given
    total = (of_labelled[..., None] * labelled).sum(2) + of_moved.mT @ moved
    return F.normalize(total, dim=-1), shift
