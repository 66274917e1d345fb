"""Where training, and so generation, begins, by name."""

from dataclasses import fields
from typing import Any

from torch import Tensor

from ltdi.learner import Learner
from ltdi.starts.base import Start
from ltdi.starts.closed_form import Prototype, Ridge
from ltdi.starts.described import KernelRidge, SoftmaxRows, TextRidge
from ltdi.starts.gaussian import Fresh, Shared
from ltdi.starts.joint import Joint

STARTS: dict[str, type[Start]] = {
    start.kind: start for start in (Fresh, Shared, Joint, Prototype, Ridge, SoftmaxRows, TextRidge, KernelRidge)
}


def start_of(learner: Learner, tensors: dict[str, Tensor], values: dict[str, Any]) -> Start:
    """The start whose ``state`` this is."""
    own = {name.removeprefix("start/"): value for name, value in tensors.items() if name.startswith("start/")}
    kind = STARTS[values["start"]]
    own |= {field.name: values[field.name] for field in fields(kind) if field.name in values.keys() - {"learner"}}
    return kind(learner, **own)
