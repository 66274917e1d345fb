"""The paper's head: two fully connected layers on the body's features, functional and batched over tasks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.learners.analytic_gradient import NUMBERS_TOGETHER
from ltdi.learners.output_layer import OutputLayer
from ltdi.learners.weight_space import WeightSpace
from ltdi.tasks.batch import Batch
from ltdi.utils.errors import InputError


class TwoLayerHead(OutputLayer):
    """F features -> H hidden units, ReLU -> N logits. Its weights are vectors w (B, D), whose width says the number of
    classes.

    ``floor`` is a number that no feature is below: a linear classifier passes its features, raised by it, through the
    ReLU. ``n_numbers`` are those of a row of a task's context, where it is no row of features.
    """

    def __init__(self, n_features: int, hidden: int, floor: float = 0.0, n_numbers: int | None = None) -> None:
        self.n_features, self.n_numbers = n_features, n_numbers or n_features
        self.hidden = self.n_reference = hidden
        self.floor = floor
        self._passes: dict[tuple[Any, ...], Tensor] = {}
        self.inputs_together = max(1, NUMBERS_TOGETHER // (n_features + 2 * hidden))
        self.space = WeightSpace(
            {
                "hidden.weight": (hidden, n_features),
                "hidden.bias": (hidden,),
                "output.weight": (None, hidden),
                "output.bias": (None,),
            }
        )

    def facts(self) -> dict[str, Any]:
        return {
            "name": "two_layer_head",
            "n_features": self.n_features,
            "hidden": self.hidden,
            "floor": self.floor,
            "n_numbers": self.n_numbers,
        }

    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        t = self.space.unflatten(w)
        return torch.baddbmm(t["output.bias"][:, None], _activations(t, inputs), t["output.weight"].mT)

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Draw Gaussian weights of variance 1 / fan-in, the output layer's times ``output_scale``; biases are zero."""
        device = generator.device

        def gaussian(*shape: int) -> Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, device=device) / math.sqrt(shape[1])

        return self.space.flatten(
            {
                "hidden.weight": gaussian(self.hidden, self.n_features),
                "hidden.bias": torch.zeros(n_tasks, self.hidden, device=device),
                "output.weight": output_scale * gaussian(n_way, self.hidden),
                "output.bias": torch.zeros(n_tasks, n_way, device=device),
            }
        )

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Exact for features that are not below ``floor``: a first layer that is the identity, raised by −floor, passes
        them through the ReLU, and the second layer takes what that adds back. Spare hidden units stay zero."""
        B, N, n_features = weight.shape
        if self.hidden < n_features:
            raise InputError(
                f"learner.hidden = {self.hidden} is less than the {n_features} features; a closed form needs at least"
                " as many: raise it, set learner.projection to at most as many, or learner.name = linear_head"
            )
        hidden = self._passing(n_features, weight.dtype, weight.device).expand(B, -1, -1)
        bias = bias + self.floor * weight.sum(-1) if self.floor else bias
        spare = self.hidden - n_features
        output = torch.cat([F.pad(weight, (0, spare)) if spare else weight, bias[..., None]], dim=-1)
        return self.space.from_tokens({"hidden": hidden, "output": output})

    def _passing(self, *key: Any) -> Tensor:
        """The first layer that passes so many features, of a number format, on a device (H, F + 1); made once."""
        if key not in self._passes:
            n_features, dtype, device = key
            identity = torch.eye(self.hidden, n_features, dtype=dtype, device=device)
            raised = torch.zeros(self.hidden, 1, dtype=dtype, device=device)
            raised[:n_features] = -self.floor
            self._passes[key] = torch.cat([identity, raised], dim=-1)
        return self._passes[key]

    def reference(self, w: Tensor, batch: Batch) -> Tensor:
        """The hidden units' mean activation. They are never negative, and what a class's weights add to all images
        alike would have to be taken back, exactly, by a bias of a hundred times their size."""
        return _activations(self.space.unflatten(w), batch["inputs"])[batch["labels"] >= 0].mean(0)


def _activations(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Of the hidden units: inputs (B, M, F) -> (B, M, H)."""
    return torch.baddbmm(tensors["hidden.bias"][:, None], inputs, tensors["hidden.weight"].mT).relu()
