"""Baseline: the mean of the known rows, weighted by softmax of how near their names are; how sharply, is chosen on
meta-val."""

from torch import Tensor

from ltdi.initialization.from_names import SHARPNESSES, softmax_directions
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class SoftmaxRows(ClassSemanticsMethod):
    candidates = tuple((sharpness,) for sharpness in SHARPNESSES)

    def directions(self, context: Context) -> Tensor:
        return softmax_directions(self.table, context, self.hparams[0].item())
