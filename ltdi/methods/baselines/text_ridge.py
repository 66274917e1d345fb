"""Text ridge baseline for zero-shot tasks: ridge regression from text embeddings to weight rows of training classes.

The penalty is selected on meta-val.
"""

from torch import Tensor

from ltdi.initialization.closed_form import PENALTIES
from ltdi.initialization.from_names import ridge_directions
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class TextRidge(ClassSemanticsMethod):
    """Ridge regression from texts to rows; the hyperparameter is the penalty."""

    candidates = tuple((penalty,) for penalty in PENALTIES)

    def directions(self, context: Context) -> Tensor:
        """Predict each class's row relative to the mean row: (B, N, F)."""
        return ridge_directions(self.table, context, self.hparams[0].item())
