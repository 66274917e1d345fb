"""Baseline: ridge regression from the texts of known classes to their rows in a kernel, its bandwidth chosen on
meta-val."""

from torch import Tensor

from ltdi.initialization.from_names import BANDWIDTHS, kernel_directions
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class KernelRidge(ClassSemanticsMethod):
    candidates = tuple((bandwidth,) for bandwidth in BANDWIDTHS)

    def directions(self, context: Context) -> Tensor:
        return kernel_directions(self.table, context, self.hparams[0].item())
