"""Starts with a closed form, of learners whose weights hold any linear classifier."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltdi.initialization.base import Initialization
from ltdi.learners.base import Classifier, Learner
from ltdi.tasks.base import Context, TaskSource, batches
from ltdi.utils.errors import InputError
from ltdi.utils.nn import masked_mean, solved

PENALTIES = tuple(10.0**e for e in range(-3, 4))
TEMPERATURES = tuple(2.0 ** (e / 2) for e in range(-20, 17))

Scalar = float | Tensor
"""A number; of what a method has learned a tensor, so that no device is asked for it."""


def prototype_weights(learner: Classifier, means: Tensor, temperature: Scalar) -> Tensor:
    """The nearest-mean classifier of class means p (B, N, F) as weights (B, D): logits -τ‖f - p_n‖², less the τ‖f‖²
    that all classes share."""
    return learner.linear(2 * temperature * means, -temperature * means.square().sum(-1))


def ridge_weights(learner: Classifier, context: Context, penalty: Scalar, temperature: Scalar) -> Tensor:
    """Ridge regression of ±1 labels on the centred rows as weights (B, D) (Bertinetto et al. 2019), logits times τ; the
    penalty and τ a number, or one a task (B,).

    Solved in the space of the N·K rows, which are fewer than features.
    """
    N, K = context.rows.shape[1:3]
    x, there = context.rows.flatten(1, 2), context.present.flatten(1)
    centre = masked_mean(x, there)[:, None]
    y = 2 * torch.eye(N, dtype=x.dtype, device=x.device).repeat_interleave(K, 0).expand(len(x), -1, -1) - 1
    offset = masked_mean(y, there)[:, None]
    # a row that is not there is a row of zeros, which moves nothing
    x, y = (x - centre) * there[..., None], (y - offset) * there[..., None]
    penalty, temperature = (
        each[:, None, None] if isinstance(each, Tensor) and each.dim() else each for each in (penalty, temperature)
    )
    alpha = solved(x @ x.mT + penalty * torch.eye(N * K, dtype=x.dtype, device=x.device), y)
    weight = alpha.mT @ x
    bias = offset.mT - weight @ centre.mT
    return learner.linear(temperature * weight, (temperature * bias).squeeze(-1))


@torch.no_grad()
def calibrated_temperature(
    learner: Classifier, source: TaskSource, weights_of: Callable[[Context], Tensor]
) -> tuple[float, float]:
    """The τ of ``TEMPERATURES`` at which classifiers give the least mean cross-entropy on the queries of the table's
    tasks, and that. Their logits are linear in τ; ``weights_of`` gives the classifiers (B, D) at τ = 1."""
    total, n = torch.zeros(len(TEMPERATURES), dtype=torch.float64), 0
    for tasks in batches(len(source)):
        task = source.batch(tasks)
        labels = task.query["labels"].flatten()
        logits = learner.logits(weights_of(task.context), task.query["inputs"]).flatten(0, 1)[labels >= 0]
        # classes first: a pass along few of them takes ten times as long
        z, of_label = logits.mT.contiguous(), logits.gather(1, labels[labels >= 0, None]).sum(dtype=torch.float64)
        losses = [(t * z).logsumexp(0).sum(dtype=torch.float64) - t * of_label for t in TEMPERATURES]
        total += torch.stack(losses).cpu()
        n += z.shape[1]
    best = int(total.argmin())
    return TEMPERATURES[best], total[best].item() / n


def linear_classifier(learner: Learner, what: str) -> Classifier:
    """The learner, if its weights hold a linear classifier.

    Raises:
        InputError: they do not; ``what`` needs one.
    """
    if not isinstance(learner, Classifier):
        raise InputError(f"{what} is a linear classifier, which {type(learner).__name__} does not hold; choose another")
    return learner


@dataclass(frozen=True, eq=False)
class ClosedForm(Initialization):
    """The classifier that a closed form gives for the context."""

    temperature: float = 1.0
    ridge: float = 1.0

    def values(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "ridge": self.ridge}

    def candidates(self) -> "list[ClosedForm]":
        """What the closed form leaves open but for the temperature."""
        return [self]

    def calibrated(self, val: TaskSource) -> "ClosedForm":
        """Penalty and temperature by the cross-entropy of the queries of meta-val tasks."""
        learner, fitted = linear_classifier(self.learner, self.kind), []
        for candidate in self.candidates():
            temperature, loss = calibrated_temperature(learner, val, replace(candidate, temperature=1.0).centre)
            fitted.append((loss, replace(candidate, temperature=temperature)))
        return min(fitted, key=lambda each: each[0])[1]


class Prototype(ClosedForm):
    """The nearest class mean."""

    kind: ClassVar[str] = "prototype"

    def centre(self, context: Context) -> Tensor:
        return prototype_weights(
            linear_classifier(self.learner, "the start prototype"), context.means, self.temperature
        )


class Ridge(ClosedForm):
    """Ridge regression; ``ridge`` is its penalty."""

    kind: ClassVar[str] = "ridge"

    def centre(self, context: Context) -> Tensor:
        return ridge_weights(linear_classifier(self.learner, "the start ridge"), context, self.ridge, self.temperature)

    def candidates(self) -> list[ClosedForm]:
        return [replace(self, ridge=penalty) for penalty in PENALTIES]
