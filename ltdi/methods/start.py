"""Ablation: the start itself, which the chain leaves. With the start "encoded" it is what the support encoder alone gives."""

import torch
from torch import Tensor

from ltdi.methods.base import Method
from ltdi.tasks import Support


class StartAlone(Method):
    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self.start.centre(support)
