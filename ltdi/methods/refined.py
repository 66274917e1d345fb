"""Test-time use: the mean of a few heads that a method generates, then a few gradient steps on the support set."""

from itertools import repeat

import torch
from torch import Tensor

from ltdi.adaptation import adapt
from ltdi.errors import InputError
from ltdi.methods.base import Method
from ltdi.tasks import Query, Support
from ltdi.weights import WeightSpace


class Refined(Method):
    """A trained method with more time a task. With one head and no step it is that method.

    Args:
        heads: how many are generated a task, each from noise of its own. All come from one start, so that their hidden
            units mean the same and the mean of the weights is a head too.
        adapt_steps, adapt_lr: Adam's, on the whole support set.

    Raises:
        InputError: gradient steps are asked of a method that generates more than a head.
    """

    def __init__(self, method: Method, *, heads: int, adapt_steps: int, adapt_lr: float) -> None:
        super().__init__(method.start)
        if adapt_steps and method.space is not method.head.space:
            raise InputError(
                f"generate.adapt_steps = {adapt_steps}, but {type(method).__name__} generates more than a head; set 0"
            )
        self.method, self.heads, self.adapt_steps, self.adapt_lr = method, heads, adapt_steps, adapt_lr
        self.from_images, self.adapts = method.from_images, method.adapts or adapt_steps > 0

    @property
    def space(self) -> WeightSpace:
        return self.method.space

    def logits(self, w: Tensor, query: Query) -> Tensor:
        return self.method.logits(w, query)

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        w = torch.stack([self.method.generate(support, generator=generator) for _ in range(self.heads)]).mean(0)
        if self.adapt_steps == 0:
            return w
        return adapt(
            self.head, w, repeat(support.labelled), optimizer="adam", lr=self.adapt_lr, record=[self.adapt_steps]
        ).weights[:, 0]
