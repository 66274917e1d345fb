"""Where training, and so generation, begins, by name."""

from dataclasses import fields
from typing import Any

from torch import Tensor

from ltdi.initialization.adaptive_ridge import AdaptiveRidge
from ltdi.initialization.base import Initialization
from ltdi.initialization.closed_form import Prototype, Ridge
from ltdi.initialization.from_names import KernelRidge, SoftmaxRows, TextRidge
from ltdi.initialization.gaussian import Fresh, Shared
from ltdi.initialization.joint_adapter import Joint
from ltdi.learners.base import Learner

OF_EXAMPLES = (Fresh, Shared, Joint, Prototype, Ridge, AdaptiveRidge)
OF_NAMES = (SoftmaxRows, TextRidge, KernelRidge)
INITIALIZATIONS: dict[str, type[Initialization]] = {
    initialization.kind: initialization for initialization in (*OF_EXAMPLES, *OF_NAMES)
}


def initialization_of_kind(kind: str, learner: Learner, shared: Tensor, output_scale: float) -> Initialization:
    """Build a start from one draw ``shared`` (D,); draws of a task's own have their output layer times
    ``output_scale``."""
    return Fresh(learner, shared, output_scale) if kind == Fresh.kind else INITIALIZATIONS[kind](learner, shared)


def initialization_of(learner: Learner, tensors: dict[str, Tensor], values: dict[str, Any]) -> Initialization:
    """The start whose ``state`` this is."""
    own = {
        name.removeprefix("initialization/"): value
        for name, value in tensors.items()
        if name.startswith("initialization/")
    }
    kind = INITIALIZATIONS[values["initialization"]]
    own |= {field.name: values[field.name] for field in fields(kind) if field.name in values.keys() - {"learner"}}
    return kind(learner, **own)
