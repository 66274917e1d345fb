"""An optimiser, a moving average of the weights and a step count: all that a resumed training needs.

On floor 0: it knows torch's optimisers and no project concept.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Row = dict[str, Any]
"""A step's line in the log: numbers, and tensors of one number, which stay on their device until somebody looks: a
training that asks for its loss at every step waits for it."""


def cosine(step: int, steps: int, warmup: float = 0.05) -> float:
    """Learning-rate factor: linear from 0 over the first ``warmup`` part, then a half cosine down to 0."""
    progress = (step + 1) / steps
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Training:
    """Adam on the gradients that the caller leaves in ``model``, with an average of the weights.

    ``steps`` is the length of the learning-rate schedule; ``step`` counts the steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        steps: int,
        ema: float,
        weight_decay: float = 0.0,
        lr_schedule: str = "cosine",
    ) -> None:
        self.model, self.lr, self.steps, self.ema = model, lr, steps, ema
        self.lr_schedule = lr_schedule
        own, parameters = model.state_dict(keep_vars=True), list(model.parameters())
        # all of them by one call: a GPU takes longer to be told than to do it. A processor's kernel that does a step
        # at once rounds otherwise than the calls for one parameter after the other
        on_card = all(each.is_cuda for each in parameters)
        self.optimizer = torch.optim.AdamW(
            parameters, lr=lr, weight_decay=weight_decay, fused=on_card, foreach=not on_card
        )
        self.average = {name: value.detach().clone() for name, value in own.items()}
        # found once: they change in place
        floats = [name for name, value in own.items() if value.is_floating_point()]
        self._floats = [self.average[name] for name in floats], [own[name] for name in floats]
        self._others = [(self.average[name], own[name]) for name in own if name not in floats]
        self.step = 0

    def descend(self) -> None:
        """One Adam step along the gradients in the model; clears them and moves the average."""
        factor = cosine(self.step, self.steps) if self.lr_schedule == "cosine" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
            for each in group["params"]:  # as the kernels of a GPU want them; autograd's own lie so
                if each.grad is not None and each.grad.stride() != each.stride():
                    each.grad = torch.empty_like(each).copy_(each.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # early averages would remember the random start for 1 / (1 - ema) steps
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(keep)(*self._floats, None)
        for average, value in self._others:
            average.copy_(value)
        self.step += 1

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights and without dropout, for as long as the context lasts."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield self.model.eval()
        finally:
            self.model.train().load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, as one flat dict of tensors (safetensors can hold it)."""
        state = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        state |= {f"average/{name}": value for name, value in self.average.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        return state | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

        self.model.load_state_dict(part("model/"))
        for name, value in part("average/").items():
            self.average[name].copy_(value)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer/").items():
            index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = int(state["step"])
