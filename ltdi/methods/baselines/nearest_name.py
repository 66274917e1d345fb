"""Baseline: the row of the known class whose name is nearest."""

from torch import Tensor

from ltdi.initialization.from_names import similarities
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class NearestName(ClassSemanticsMethod):
    def directions(self, context: Context) -> Tensor:
        return self.table.centred[similarities(self.table, context).argmax(-1)]
