"""Nearest-name baseline for zero-shot tasks: the row of the training class with the most similar name."""

from torch import Tensor

from ltdi.initialization.from_names import similarities
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context


class NearestName(ClassSemanticsMethod):
    """Row of the training class whose text embedding has the highest cosine similarity."""

    def directions(self, context: Context) -> Tensor:
        """Return the row of the nearest training class, relative to the mean row: (B, N, F)."""
        return self.table.centred[similarities(self.table, context).argmax(-1)]
