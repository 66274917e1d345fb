"""Starts from words: a class's row of weights from the rows of classes that are known, by how near their texts are."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.initialization.base import Initialization
from ltdi.initialization.closed_form import PENALTIES, calibrated_temperature, linear_classifier
from ltdi.learners.base import Classifier
from ltdi.tasks.base import Context, TaskSource
from ltdi.utils.nn import solved

SHARPNESSES = tuple(2.0**-e for e in range(1, 8))
"""Of the softmax over similarities, from 1/2 (nearly all rows) to 1/128 (nearly the nearest alone)."""

BANDWIDTHS = (0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Of the kernel over texts: from one that sees the next few alone to one that is nearly linear."""

NOISE = 1.0
"""The penalty of the regression in the kernel, whose diagonal is 1; a tenth and ten times it made no difference."""


@dataclass(frozen=True, eq=False)
class Table:
    """The classes that are known: their texts (C, E), of unit length, and rows (C, F), their class means or what a
    trained classifier has for them."""

    texts: Tensor
    rows: Tensor
    solved: dict[tuple[str, float], tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of the regressions that were asked for, by kind and hyperparameter, the inverse (C, C) and the coefficients (C,
    F)."""

    @cached_property
    def mean(self) -> Tensor:
        """(F,)"""
        return self.rows.mean(0)

    @cached_property
    def centred(self) -> Tensor:
        """(C, F)"""
        return self.rows - self.mean

    def classifier(self, learner: Classifier, directions: Tensor, temperature: float) -> Tensor:
        """Directions u (B, N, F) from the mean row m as weights (B, D): logits τ·⟨u/‖u‖, f − m⟩. Rows that are means of
        others are shorter the more they mix: their length says how sure the text is, and not how frequent the class."""
        weight = temperature * F.normalize(directions, dim=-1)
        return learner.linear(weight, -(weight @ self.mean))


def similarities(table: Table, context: Context) -> Tensor:
    """Of the context's texts to the known ones (B, N, C); −∞ to those of the task's own classes."""
    found = F.normalize(context.means, dim=-1) @ F.normalize(table.texts, dim=-1).mT
    if context.known is None:
        return found
    own = torch.zeros_like(found[:, 0], dtype=torch.bool).scatter_(1, context.known, True)
    return found.masked_fill(own[:, None], -torch.inf)


def softmax_directions(table: Table, context: Context, sharpness: float) -> Tensor:
    """The mean of the known rows, weighted by softmax(similarity / sharpness): (B, N, F)."""
    return (similarities(table, context) / sharpness).softmax(-1) @ table.centred


def ridge_directions(table: Table, context: Context, penalty: float) -> Tensor:
    """Ridge regression from texts to rows, both centred on the known classes: (B, N, F)."""
    texts = F.normalize(table.texts, dim=-1).double()
    centre = texts.mean(0)
    texts, asked = texts - centre, F.normalize(context.means, dim=-1).double() - centre
    return _regression(table, texts @ texts.mT, asked @ texts.mT, context, penalty, ("ridge", penalty))


def kernel_directions(table: Table, context: Context, bandwidth: float) -> Tensor:
    """Ridge regression from texts to rows in the kernel exp((⟨a, b⟩ − 1) / bandwidth) of texts around their mean, at
    unit length: (B, N, F). A Gaussian process's mean, of known rows that are uncertain by as much as they vary."""
    texts = F.normalize(table.texts, dim=-1).double()
    centre = texts.mean(0)
    texts, asked = (F.normalize(each - centre, dim=-1) for each in (texts, F.normalize(context.means, dim=-1).double()))
    gram, likeness = (((each @ texts.mT - 1) / bandwidth).exp() for each in (texts, asked))
    return _regression(table, gram, likeness, context, NOISE, ("kernel", bandwidth))


def _regression(
    table: Table, gram: Tensor, likeness: Tensor, context: Context, penalty: float, key: tuple[str, float]
) -> Tensor:
    """What the rows' regression says (B, N, F), of inner products of the known texts (C, C) and with the asked ones (B,
    N, C); what is solved is kept in the table by the ``key``.

    Of a task of known classes it is what regression on the others would say, in closed form: with the hat matrix H and
    fitted rows Ŷ, Y_S − (I − H_SS)⁻¹ (Y_S − Ŷ_S).
    """
    rows = table.centred.double()
    if key not in table.solved:
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        inverse = torch.linalg.inv(gram + penalty * eye)
        table.solved[key] = inverse, inverse @ rows
    inverse, coefficients = table.solved[key]
    found = likeness @ coefficients
    if context.known is not None:
        own = context.known
        hat = (gram @ inverse)[own[:, :, None], own[:, None, :]]
        eye = torch.eye(own.shape[1], dtype=gram.dtype, device=gram.device)
        found = rows[own] - solved(eye - hat, rows[own] - found)
    return found.to(table.rows)


@dataclass(frozen=True, eq=False)
class FromNames(Initialization):
    """``texts`` (C, E) and ``rows`` (C, F) of the known classes, the logits' temperature, and the one hyperparameter
    of what makes new rows of them.

    A known class begins at what the others say of it, or, ``from_own``, at its own row: then what is learned is how
    heads of images differ from the rows that are known, and no error of the text stands between.
    """

    texts: Tensor
    rows: Tensor
    temperature: float = 1.0
    hparam: float = 1.0
    from_own: bool = False

    shown: ClassVar[bool] = True
    hparams: ClassVar[tuple[float, ...]]

    @cached_property
    def table(self) -> Table:
        return Table(self.texts, self.rows)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"texts": self.texts, "rows": self.rows}

    def values(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "hparam": self.hparam, "from_own": self.from_own}

    def directions(self, context: Context) -> Tensor:
        """(B, N, F)"""
        raise NotImplementedError

    def centre(self, context: Context) -> Tensor:
        if self.from_own and (own := self.ends(context)) is not None:
            return own
        learner = linear_classifier(self.learner, f"the start {self.kind}")
        return self.table.classifier(learner, self.directions(context), self.temperature)

    def ends(self, context: Context) -> Tensor | None:
        if context.known is None:
            return None
        learner = linear_classifier(self.learner, f"the start {self.kind}")
        return self.table.classifier(learner, self.table.centred[context.known], self.temperature)

    def calibrated(self, train: TaskSource, val: TaskSource) -> "FromNames":
        """Knob and temperature by the cross-entropy of the queries of meta-val tasks. With ``from_own`` the temperature
        is that of the known rows on their own images: what is learned there is then a change of direction, not of
        size, and as large beside a new class's row; its probabilities are the surer for it."""
        learner, fitted = linear_classifier(self.learner, self.kind), []
        for hparam in self.hparams:
            candidate = replace(self, temperature=1.0, hparam=hparam)
            temperature, loss = calibrated_temperature(learner, val, candidate.centre)
            fitted.append((loss, replace(candidate, temperature=temperature)))
        best = min(fitted, key=lambda each: each[0])[1]
        if not self.from_own:
            return best
        own, _ = calibrated_temperature(learner, train, replace(best, temperature=1.0).centre)
        return replace(best, temperature=own)


class SoftmaxRows(FromNames):
    """The mean of the known rows, weighted by how near their texts are."""

    kind: ClassVar[str] = "softmax_rows"
    hparams: ClassVar[tuple[float, ...]] = SHARPNESSES

    def directions(self, context: Context) -> Tensor:
        return softmax_directions(self.table, context, self.hparam)


class TextRidge(FromNames):
    """Ridge regression from texts to rows."""

    kind: ClassVar[str] = "text_ridge"
    hparams: ClassVar[tuple[float, ...]] = PENALTIES

    def directions(self, context: Context) -> Tensor:
        return ridge_directions(self.table, context, self.hparam)


class KernelRidge(FromNames):
    """Ridge regression from texts to rows in a kernel."""

    kind: ClassVar[str] = "kernel_ridge"
    hparams: ClassVar[tuple[float, ...]] = BANDWIDTHS

    def directions(self, context: Context) -> Tensor:
        return kernel_directions(self.table, context, self.hparam)
