"""Where training, and so generation, begins, by name."""

from typing import Any

from torch import Tensor

from ltdi.learner import Learner
from ltdi.starts.base import Start
from ltdi.starts.closed_form import Prototype, Ridge
from ltdi.starts.gaussian import Fresh, Shared

STARTS: dict[str, type[Start]] = {start.kind: start for start in (Fresh, Shared, Prototype, Ridge)}


def start_of(learner: Learner, tensors: dict[str, Tensor], values: dict[str, Any]) -> Start:
    """The start whose ``state`` this is."""
    own = {key: values[key] for key in ("temperature", "ridge") if key in values}
    return STARTS[values["start"]](learner, tensors["start/shared"], **own)
