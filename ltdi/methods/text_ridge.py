"""Control: ridge regression from the texts of known classes to their rows, its penalty chosen on meta-val."""

from torch import Tensor

from ltdi.methods.known_rows import KnownRows
from ltdi.starts.closed_form import PENALTIES
from ltdi.starts.described import ridge_directions
from ltdi.tasks import Context


class TextRidge(KnownRows):
    candidates = tuple((penalty,) for penalty in PENALTIES)

    def directions(self, context: Context) -> Tensor:
        return ridge_directions(self.table, context, self.knobs[0].item())
