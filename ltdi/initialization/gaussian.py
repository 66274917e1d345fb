"""Starts that know nothing of the task: Gaussian weights."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltdi.initialization.base import Initialization
from ltdi.tasks.base import Context
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


@dataclass(frozen=True, eq=False)
class Fresh(Initialization):
    """Gaussian weights of each task's own: the paper's (Algorithm 1). The output layer's are multiplied by
    ``output_scale``."""

    output_scale: float = 1.0

    kind: ClassVar[str] = "fresh"
    drawn: ClassVar[bool] = True

    def values(self) -> dict[str, Any]:
        return {"output_scale": self.output_scale}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator) -> Tensor:
        """Draw weights (n_tasks, D) of the law that training starts from."""
        return self.learner.initial(n_tasks, n_way, generator, output_scale=self.output_scale)

    def centre(self, context: Context) -> Tensor:
        return self.shared.new_zeros(self.learner.space.dim(context.n_way)).expand(len(context), -1)

    def draw(self, context: Context, tasks: Tensor, seed: int) -> Tensor:
        """Named after its task, so that it does not depend on the task's neighbours."""
        draws = [self.initial(1, context.n_way, generator(seed, "start", task)) for task in tasks.tolist()]
        return torch.cat(draws).to(self.shared)


class Shared(Initialization):
    """One Gaussian draw for all tasks, so that hidden units mean the same in all of them."""

    kind: ClassVar[str] = "shared"
    fixed_n_way: ClassVar[bool] = True

    def centre(self, context: Context) -> Tensor:
        if self.learner.space.dim(context.n_way) != len(self.shared):
            raise InputError(
                "trajectories.initialization = shared is one head for all tasks, and there is none of"
                f" {context.n_way} classes; set tasks.train_n_way = null, or choose another start"
            )
        return self.shared.expand(len(context), -1)
