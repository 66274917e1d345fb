"""Kernel ridge baseline for zero-shot tasks: kernel regression from text embeddings to weight rows of training classes.

The bandwidth of the kernel is selected on meta-val.
"""

from torch import Tensor

from ltdi.initialization.from_names import BANDWIDTHS, kernel_directions
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class KernelRidge(ClassSemanticsMethod):
    """Kernel ridge regression from texts to rows; the hyperparameter is the bandwidth."""

    candidates = tuple((bandwidth,) for bandwidth in BANDWIDTHS)

    def directions(self, context: Context) -> Tensor:
        """Predict each class's row relative to the mean row: (B, N, F)."""
        return kernel_directions(self.table, context, self.hparams[0].item())
