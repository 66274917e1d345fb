"""Softmax-weighted rows, a zero-shot baseline: the mean of training classes' rows, weighted by text similarity.

The sharpness of the softmax is selected on meta-val.
"""

from torch import Tensor

from ltdi.initialization.from_names import SHARPNESSES, softmax_directions
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class SoftmaxRows(ClassSemanticsMethod):
    """Softmax-weighted mean of training rows; the hyperparameter is the softmax temperature."""

    candidates = tuple((sharpness,) for sharpness in SHARPNESSES)

    def directions(self, context: Context) -> Tensor:
        """Average the training rows, relative to the mean row, by the similarity of their texts: (B, N, F)."""
        return softmax_directions(self.table, context, self.hparams[0].item())
