"""REPTILE for zero-shot tasks: a meta-learned linear map from class-conditioning vectors to weight rows.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms". Published: an initialization φ from which a
few gradient steps on a task's labelled examples lead to its weights. Zero-shot tasks have no labelled examples at
generation, and publications that list REPTILE among zero-shot methods do not define it there. Here

- φ is a linear map from the class-conditioning vector (text embedding and initial row) to the difference of the class's
  row from the initialization: an initialization common to all classes could not distinguish them;
- meta-training is as published: steps on the labelled images of each training task lead from φ to φ_i, and φ moves
  along mean φ_i − φ, which Adam gets as a gradient;
- generation takes no gradient steps: the weights are those of φ itself.
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
    """Linear map φ from class-conditioning vectors to rows of the classifier.

    Args:
        inner_steps, inner_optimizer, inner_lr: gradient steps on a training task, each on newly drawn images; "sgd" or
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
        self.map = zero(nn.Linear(self.conditioning_width, self.space.numbers[self.slot_layer]))

    @property
    def slot_layer(self) -> str:
        """Name of the layer that has a row per class."""
        assert self.space.slot_layer is not None
        return self.space.slot_layer

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the initialization plus the mapped class-conditioning vectors (B, D); deterministic."""
        return self._weights(CURRENT_PARAMETERS, self.conditioning(context, centre), centre)

    def _weights(self, phi: Phi, conditioning: Tensor, centre: Tensor) -> Tensor:
        """Return the weights (B, D) at parameters φ of the map; other layers keep their initialization."""
        tokens = {layer: torch.zeros_like(part) for layer, part in self.space.tokens(centre).items()}
        rows = functional_forward(self.map, phi, conditioning)
        return self.to_w(self.space.from_tokens(tokens | {self.slot_layer: rows}), centre)

    def draw_inputs(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        """Return conditioning, centre and query set of the tasks; nothing random is drawn."""
        centre = self.initialization.centre(task.context)
        return {"conditioning": self.conditioning(task.context, centre), "centre": centre, "query": task.query}

    def functional_loss(self, phi: Phi, batch: Mapping[str, Any]) -> Tensor:
        """Return the query loss of each task (B,) at parameters φ of the map."""
        phi = {name.removeprefix("map."): value for name, value in phi.items()}
        return self.learner.loss(self._weights(phi, batch["conditioning"], batch["centre"]), batch["query"])
