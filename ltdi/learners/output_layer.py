"""What heads share whose last layer, ``output``, has a row and a bias a class."""

import torch
from torch import Tensor

from ltdi.learners.analytic_gradient import HeadGradient
from ltdi.learners.base import Classifier


class OutputLayer(Classifier):
    """Its gradient is written out, and its biases may be counted at any activations of the layer's inputs."""

    inputs_on_gpu = 2**18

    def analytic_gradient(self, w: Tensor, products: torch.dtype | None = None) -> HeadGradient:
        return HeadGradient(self.space, w, products)

    def rebased(self, w: Tensor, reference: Tensor) -> Tensor:
        tensors = self.space.unflatten(w)
        bias = tensors["output.bias"] + tensors["output.weight"] @ reference.to(w)
        return self.space.replaced(w, "output", tensors | {"output.bias": bias})
