"""The head that is generated: two fully connected layers on the body's features, functional and batched over tasks."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.weights import WeightSpace

Forward = Callable[[Tensor, Tensor], Tensor]  # w (B, D), inputs (B, M, …) -> logits (B, M, N)


class Head:
    """F features -> H hidden units, ReLU -> N logits. It holds shapes only; its weights are vectors w (B, D), whose
    width says the number of classes."""

    def __init__(self, n_features: int, hidden: int) -> None:
        self.n_features, self.hidden = n_features, hidden
        self.space = WeightSpace(
            {
                "hidden.weight": (hidden, n_features),
                "hidden.bias": (hidden,),
                "output.weight": (None, hidden),
                "output.bias": (None,),
            }
        )

    def __call__(self, w: Tensor, features: Tensor) -> Tensor:
        """w (B, D), features (B, M, F) -> logits (B, M, N)."""
        t = self.space.unflatten(w)
        return torch.baddbmm(t["output.bias"][:, None], self.activations(w, features), t["output.weight"].mT)

    def activations(self, w: Tensor, features: Tensor) -> Tensor:
        """Of the hidden units: w (B, D), features (B, M, F) -> (B, M, H)."""
        t = self.space.unflatten(w)
        return torch.baddbmm(t["hidden.bias"][:, None], features, t["hidden.weight"].mT).relu()

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator) -> Tensor:
        """Gaussian weights (B, D) of variance 1 / fan-in, biases zero (Algorithm 1: w_n ~ N)."""
        device = generator.device

        def gaussian(*shape: int) -> Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, device=device) / math.sqrt(shape[1])

        return self.space.flatten(
            {
                "hidden.weight": gaussian(self.hidden, self.n_features),
                "hidden.bias": torch.zeros(n_tasks, self.hidden, device=device),
                "output.weight": gaussian(n_way, self.hidden),
                "output.bias": torch.zeros(n_tasks, n_way, device=device),
            }
        )


def task_losses(forward: Forward, w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each task (B,) over the inputs that are there; labels (B, M), ``tasks.ABSENT`` for none."""
    logits = forward(w, inputs)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").unflatten(0, labels.shape)
    return losses.sum(1) / (labels >= 0).sum(1)
