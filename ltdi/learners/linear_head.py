"""A linear classifier on the body's features: one layer, a row and a bias a class."""

import math
from typing import Any

import torch
from torch import Tensor

from ltdi.learners.analytic_gradient import NUMBERS_TOGETHER
from ltdi.learners.output_layer import OutputLayer
from ltdi.learners.weight_space import WeightSpace
from ltdi.tasks.batch import Batch


class LinearHead(OutputLayer):
    """F features -> N logits. ``n_numbers`` are those of a row of a task's context, where it is no row of features."""

    def __init__(self, n_features: int, n_numbers: int | None = None) -> None:
        self.n_features = self.n_reference = n_features
        self.n_numbers = n_numbers or n_features
        self.inputs_together = max(1, NUMBERS_TOGETHER // n_features)
        self.space = WeightSpace({"output.weight": (None, n_features), "output.bias": (None,)})

    def facts(self) -> dict[str, Any]:
        return {"name": "linear_head", "n_features": self.n_features, "n_numbers": self.n_numbers}

    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        t = self.space.unflatten(w)
        return torch.baddbmm(t["output.bias"][:, None], inputs, t["output.weight"].mT)

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Draw Gaussian rows of variance 1 / F, times ``output_scale``; biases are zero."""
        shape = (n_tasks, n_way, self.n_features)
        rows = torch.randn(shape, generator=generator, device=generator.device) / math.sqrt(self.n_features)
        return self.linear(output_scale * rows, rows.new_zeros(n_tasks, n_way))

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        return self.space.flatten({"output.weight": weight, "output.bias": bias})

    def reference(self, w: Tensor, batch: Batch) -> Tensor:
        """The mean input: features are not centred."""
        return batch["inputs"][batch["labels"] >= 0].mean(0)
