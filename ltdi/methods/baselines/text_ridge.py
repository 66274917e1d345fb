"""Baseline: ridge regression from the texts of known classes to their rows, its penalty chosen on meta-val."""

from torch import Tensor

from ltdi.initialization.closed_form import PENALTIES
from ltdi.initialization.from_names import ridge_directions
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class TextRidge(ClassSemanticsMethod):
    candidates = tuple((penalty,) for penalty in PENALTIES)

    def directions(self, context: Context) -> Tensor:
        return ridge_directions(self.table, context, self.hparams[0].item())
