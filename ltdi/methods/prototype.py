"""Control: the nearest class mean (Snell et al. 2017), written as weights. It learns nothing."""

import torch
from torch import Tensor

from ltdi.closed_form import prototype_head
from ltdi.methods.base import Method
from ltdi.tasks import Support


class Prototype(Method):
    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return prototype_head(self.head, support, self.start.temperature)
