"""Start: where training, and so generation, begins."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltdi.learners.base import Learner
from ltdi.tasks.base import TOGETHER, Context
from ltdi.utils.memory import check_fits
from ltdi.utils.seeding import generator


@dataclass(frozen=True, eq=False)
class Initialization:
    """Where training starts. ``shared`` (D,) is one Gaussian draw for all tasks, of one number of classes."""

    learner: Learner
    shared: Tensor

    kind: ClassVar[str]
    fixed_n_way: ClassVar[bool] = False
    """Whether it is there for as many classes as ``shared`` has, and for no other number."""
    shown: ClassVar[bool] = False
    """Whether denoisers are shown the centre: where it holds more of what is known than the context's rows."""
    drawn: ClassVar[bool] = False
    """Whether training starts from draws of the task's own, of which the centre knows nothing."""

    def centre(self, context: Context) -> Tensor:
        """What is known of the start from the context alone (B, D); the origin of the diffusion."""
        raise NotImplementedError

    def draw(self, context: Context, tasks: Tensor, seed: int) -> Tensor:
        """w_n (B, D) of the tasks of these numbers."""
        return self.centre(context)

    def ends(self, context: Context) -> Tensor | None:
        """Weights (B, D) of known classes that there are already, without training."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """What is its own: tensors."""
        return {"shared": self.shared}

    def values(self) -> dict[str, Any]:
        """What is its own: plain values."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which it is made again."""
        tensors = {f"initialization/{name}": value for name, value in self.tensors().items()}
        return tensors, {"initialization": self.kind, "learner": self.learner.facts(), **self.values()}

    def to(self, device: torch.device | str) -> "Initialization":
        tensors = {name: value.to(device) for name, value in self.tensors().items()}
        return type(self)(self.learner, **tensors, **self.values())


COPIES = 8
"""How many times a batch's weights are there while starts are compared: layer by layer and whole, of two candidates,
with what their hidden units make of the queries."""


def shared_draw(learner: Learner, n_way: int, seed: int, output_scale: float = 1.0) -> Tensor:
    """Draw weights (D,) for all tasks, the output layer's times ``output_scale``.

    Raises:
        InputError: the weights of as many tasks as are worked on at a time would not fit into memory.
    """
    dim = learner.space.dim(n_way)
    check_fits(
        COPIES * TOGETHER * dim,
        f"weights of {dim} numbers, of {TOGETHER} tasks",
        "lower learner.hidden, or set learner.projection or learner.name = linear_head",
    )
    return learner.initial(1, n_way, generator(seed, "shared start"), output_scale=output_scale)[0]
