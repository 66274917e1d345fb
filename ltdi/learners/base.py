"""Learner: what the weights are of. The meta-learning term is base learner; everything frozen is inside."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.learners.weight_space import WeightSpace
from ltdi.tasks.batch import ABSENT, Batch
from ltdi.utils.metrics import accuracy

Loss = Callable[[Tensor, Batch], Tensor]
"""w (B, D) and a batch -> the loss of each task (B,)."""


class AnalyticGradient(Protocol):
    """A loss whose gradient is written out, at the weights of B tasks that are kept in one place and change there.

    ``numbers`` are all numbers of all tasks (B·D,), in an order of its own, and ``gradient`` is what ``backward`` found
    for each; ``parts`` are a vector in this order as views (B, …), a task a row.
    """

    numbers: Tensor
    gradient: Tensor

    def parts(self, numbers: Tensor) -> Sequence[Tensor]: ...
    def weights(self) -> Tensor:
        """A copy (B, D)."""
        ...

    def show(self, batch: Batch) -> None:
        """What the loss is of from now on."""
        ...

    def forward(self) -> None: ...
    def losses(self) -> Tensor:
        """Of the weights that ``forward`` saw (B,)."""
        ...

    def scores(self) -> Tensor:
        """The learner's, of the same (B,)."""
        ...

    def backward(self) -> None:
        """Of the same."""
        ...


class Learner(ABC):
    """Weights w (B, D) of B tasks in a ``space``, their loss and their score."""

    space: WeightSpace
    n_numbers: int
    """C, the numbers of a row of a task's context."""
    n_reference: int = 0
    """Of the numbers that ``reference`` gives."""
    scored_by: str
    """The name of the score."""
    from_images: bool = False
    """Whether its inputs are images, of which it has features of its own."""
    inputs_together: int
    """How many inputs one pass should hold: tasks do not touch each other, and those whose activations stay in the
    processor's cache are trained twice as fast."""
    inputs_on_gpu: int = 0
    """The same where a GPU computes, which has more units than a few tasks keep busy; 0 for no other number."""

    selection_tasks: int = 1000
    """On how many new tasks what is left open is chosen: as many as minutes hold."""

    @abstractmethod
    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """What training lowers: w (B, D) -> (B,)."""

    def analytic_gradient(self, w: Tensor, products: torch.dtype | None = None) -> AnalyticGradient | None:
        """The same loss at weights w (B, D), where its gradient is written out; else autograd finds it. Its products of
        matrices are in the format ``products``, null for that of ``w``."""
        return None

    @abstractmethod
    def score(self, w: Tensor, batch: Batch) -> Tensor:
        """What is reported, larger is better: w (B, D) -> (B,)."""

    @abstractmethod
    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Draw random weights (n_tasks, D) from which training may start (Algorithm 1: w_n ~ N); the output layer's are
        multiplied by ``output_scale``."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Plain values from which the learner is made again, ``name`` among them."""

    def reference(self, w: Tensor, batch: Batch) -> Tensor:
        """Where biases are best counted (H,), by what the last layer sees of the batch; nothing where it makes no
        difference."""
        return w.new_zeros(self.n_reference)

    def rebased(self, w: Tensor, reference: Tensor) -> Tensor:
        """The weights (…, D) with their biases counted at the ``reference`` instead of at zero. Linear in ``w``, and
        undone by −reference."""
        return w


class Classifier(Learner):
    """A learner whose weights hold any linear classifier of the rows, so that closed forms can be written as its
    weights.

    Its batches have ``inputs`` (B, M, F) and ``labels`` (B, M), ``ABSENT`` for an input that is not there.
    """

    scored_by = "accuracy"
    n_features: int
    """F of its inputs."""

    @abstractmethod
    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        """w (B, D), inputs (B, M, F) -> (B, M, N)."""

    @abstractmethod
    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The linear classifier weight (B, N, F), bias (B, N) as weights (B, D).

        Raises:
            InputError: the learner has no room for it.
        """

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the inputs that are there."""
        return cross_entropy(self.logits(w, batch["inputs"]), batch["labels"])

    def score(self, w: Tensor, batch: Batch) -> Tensor:
        """The share of the inputs that are labelled rightly."""
        return accuracy(self.logits(w, batch["inputs"]), batch["labels"])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (B, M, N), labels (B, M), ``ABSENT`` for an input that is not there -> the mean over the others, a task
    (B,)."""
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=ABSENT)
    return losses.unflatten(0, labels.shape).sum(1) / (labels >= 0).sum(1)
