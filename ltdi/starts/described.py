"""Starts from words: a class's row of weights from the rows of classes that are known, by how near their texts are."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.learner import Classifier
from ltdi.starts.base import Start
from ltdi.starts.closed_form import PENALTIES, calibrated_temperature, linear_classifier
from ltdi.tasks import Context, TaskSource

SHARPNESSES = tuple(2.0**-e for e in range(1, 8))
"""Of the softmax over similarities, from 1/2 (nearly all rows) to 1/128 (nearly the nearest alone)."""


@dataclass(frozen=True, eq=False)
class Table:
    """The classes that are known: their texts (C, E), of unit length, and rows (C, F), their class means or what a
    trained classifier has for them."""

    texts: Tensor
    rows: Tensor

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
    """Ridge regression from texts to rows, both centred on the known classes: (B, N, F).

    Of a task of known classes it is what regression on the others would say, in closed form: with the hat matrix H and
    fitted rows Ŷ, Y_S − (I − H_SS)⁻¹ (Y_S − Ŷ_S).
    """
    texts = F.normalize(table.texts, dim=-1).double()
    centre, rows = texts.mean(0), table.centred.double()
    texts = texts - centre
    gram = texts @ texts.mT
    inverse = torch.linalg.inv(gram + penalty * torch.eye(len(texts), dtype=texts.dtype, device=texts.device))
    asked = F.normalize(context.means, dim=-1).double() - centre
    found = asked @ texts.mT @ (inverse @ rows)
    if context.known is not None:
        own = context.known
        hat = (gram @ inverse)[own[:, :, None], own[:, None, :]]
        eye = torch.eye(own.shape[1], dtype=texts.dtype, device=texts.device)
        found = rows[own] - torch.linalg.solve(eye - hat, rows[own] - found)
    return found.to(table.rows)


@dataclass(frozen=True, eq=False)
class Described(Start):
    """``texts`` (C, E) and ``rows`` (C, F) of the known classes, the logits' temperature, and the one knob of what
    makes new rows of them."""

    texts: Tensor
    rows: Tensor
    temperature: float = 1.0
    knob: float = 1.0

    knobs: ClassVar[tuple[float, ...]]

    @cached_property
    def table(self) -> Table:
        return Table(self.texts, self.rows)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"texts": self.texts, "rows": self.rows}

    def values(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "knob": self.knob}

    def directions(self, context: Context) -> Tensor:
        """(B, N, F)"""
        raise NotImplementedError

    def centre(self, context: Context) -> Tensor:
        learner = linear_classifier(self.learner, f"the start {self.kind}")
        return self.table.classifier(learner, self.directions(context), self.temperature)

    def ends(self, context: Context) -> Tensor | None:
        if context.known is None:
            return None
        learner = linear_classifier(self.learner, f"the start {self.kind}")
        return self.table.classifier(learner, self.table.centred[context.known], self.temperature)

    def calibrated(self, val: TaskSource) -> "Described":
        """Knob and temperature by the cross-entropy of the queries of meta-val tasks."""
        learner, fitted = linear_classifier(self.learner, self.kind), []
        for knob in self.knobs:
            candidate = replace(self, temperature=1.0, knob=knob)
            temperature, loss = calibrated_temperature(learner, val, candidate.centre)
            fitted.append((loss, replace(candidate, temperature=temperature)))
        return min(fitted, key=lambda each: each[0])[1]


class SoftmaxRows(Described):
    """The mean of the known rows, weighted by how near their texts are."""

    kind: ClassVar[str] = "softmax_rows"
    knobs: ClassVar[tuple[float, ...]] = SHARPNESSES

    def directions(self, context: Context) -> Tensor:
        return softmax_directions(self.table, context, self.knob)


class TextRidge(Described):
    """Ridge regression from texts to rows."""

    kind: ClassVar[str] = "text_ridge"
    knobs: ClassVar[tuple[float, ...]] = PENALTIES

    def directions(self, context: Context) -> Tensor:
        return ridge_directions(self.table, context, self.knob)
