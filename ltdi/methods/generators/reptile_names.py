"""REPTILE (Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms") of classes that are names alone.

Published: an initialisation φ from which a few gradient steps on a task's labelled examples lead to its weights.
A task of names has none at generation, and the publications that print REPTILE among zero-shot methods do not say what
it does there. Here

- φ is a linear map from what is told of a class (``TrainedMethod.told``: its text, and where its row starts) to the
  difference of its row from the start: an initialisation that is the same for all classes could tell none from another;
- meta-training is as published: some steps on the labelled images of each training task lead from φ to φ_i, and φ moves
  along mean φ_i − φ, which Adam gets as a gradient;
- generation takes no step: the weights are those of φ itself.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.meta_learning.reptile import CURRENT_PARAMETERS, Phi, functional_forward
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import ReptileTrainedMethod
from ltdi.tasks.base import Context, Task
from ltdi.utils.nn import zero


class ReptileNames(ReptileTrainedMethod):
    """
    Args:
        inner_steps, inner_optimizer, inner_lr: of the steps on a training task, each on images drawn anew; "sgd" or
            "adam".
    """

    needs = ("head", "names")
    uses_trajectories = False

    def __init__(
        self, initialization: Initialization, setup: Setup, *, inner_steps: int, inner_optimizer: str, inner_lr: float
    ) -> None:
        super().__init__(initialization, setup)
        self.meta = self.meta.model_copy(
            update={"inner_steps": inner_steps, "inner_optimizer": inner_optimizer, "inner_lr": inner_lr}
        )
        self.map = zero(nn.Linear(self.conditioning_width, self.space.numbers[self.slot]))

    @property
    def slot(self) -> str:
        """The layer that has a row a class."""
        assert self.space.slot_layer is not None
        return self.space.slot_layer

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        return self._weights(CURRENT_PARAMETERS, self.conditioning(context, centre), centre)

    def _weights(self, phi: Phi, conditioning: Tensor, centre: Tensor) -> Tensor:
        """(B, D) with the map's parameters φ; layers other than the classes' rows stay where they start."""
        tokens = {layer: torch.zeros_like(part) for layer, part in self.space.tokens(centre).items()}
        rows = functional_forward(self.map, phi, conditioning)
        return self.to_w(self.space.from_tokens(tokens | {self.slot: rows}), centre)

    def draw(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        centre = self.initialization.centre(task.context)
        return {"conditioning": self.conditioning(task.context, centre), "centre": centre, "query": task.query}

    def functional_loss(self, phi: Phi, batch: Mapping[str, Any]) -> Tensor:
        phi = {name.removeprefix("map."): value for name, value in phi.items()}
        return self.learner.loss(self._weights(phi, batch["conditioning"], batch["centre"]), batch["query"])
