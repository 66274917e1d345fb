"""The gradient of a head's cross-entropy, written out: of many tasks at once, in place, in buffers that are used again.

Autograd makes a tensor for every step of the way and goes over memory once for each. Here the products of matrices are
what takes the time: a bias is a weight of an input that is always 1, and what is small lies with the inputs along the
last axis, where a pass over it is fast; and so that a row of the hidden layer's gradient is as long as its units are
many, which the products like better than one number more. A few tasks at a time fit the processor's cache.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.learners.weight_space import WeightSpace
from ltdi.tasks.batch import Batch
from ltdi.utils.metrics import accuracy

NUMBERS_TOGETHER = 1_200_000
"""Of the inputs, activations and their gradient in one pass: of fewer, the calls take longer than what they do; more
leave the processor's cache."""


class HeadGradient:
    """Weights w (B, D) of B tasks' heads, and the gradient at them: a ``WrittenOut``.

    For weights that are an output layer of N classes and, where there is one, a hidden layer of H units before it. With
    inputs x, a = ReLU(W₁x + b₁), logits z = W₂a + b₂ and p = softmax(z), of which each of M inputs counts 1 / M:
    ∂z = (p − y) / M, ∂W₂ = ∂z aᵀ, ∂a = W₂ᵀ∂z, and ∂W₁ = (∂a where a > 0) xᵀ.

    Products of matrices are taken in the number format ``products``, None for that of ``w``; weights, softmax and the
    gradient as an optimiser sees it stay in that of ``w``.
    """

    def __init__(self, space: WeightSpace, w: Tensor, products: torch.dtype | None = None) -> None:
        self.space, self.has_hidden = space, "hidden.weight" in space.shapes
        tensors = space.unflatten(w)
        output = [tensors["output.weight"], tensors["output.bias"]]
        values = [space.tokens(w)["hidden"].mT, *output] if self.has_hidden else output
        self.shapes = [value.shape for value in values]
        self.numbers = torch.cat([value.flatten() for value in values])
        self.gradient = torch.empty_like(self.numbers)
        self.products = products or w.dtype
        # the same tensors where the format is
        self.factors, self.product = self.numbers.to(self.products), self.gradient.to(self.products)
        self.W, self.g = self.parts(self.factors), self.parts(self.product)
        self.batch: Batch | None = None

    def parts(self, numbers: Tensor) -> Sequence[Tensor]:
        """The hidden layer (B, F + 1, H), its biases below its weights, the output's weights (B, N, H) and biases (B,
        N)."""
        parts = numbers.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes)]

    def weights(self) -> Tensor:
        *hidden, weight, bias = self.parts(self.numbers)
        tokens = {"hidden": hidden[0].mT} if self.has_hidden else {}
        return self.space.from_tokens(tokens | {"output": torch.cat([weight, bias[..., None]], -1)})

    def show(self, batch: Batch) -> None:
        if batch is self.batch:
            return
        self.batch, inputs, labels = batch, batch["inputs"], batch["labels"]
        self.labels = labels
        B, M, _ = inputs.shape
        N = self.shapes[-1][1]
        there = labels >= 0
        self.there = there.sum(1)
        self.share = (there.to(inputs) / self.there[:, None])[:, None]
        slots = torch.arange(N, device=labels.device)[:, None]
        self.minus_target = torch.where(slots == labels[:, None], -self.share, 0.0)
        self.z, self.dz = inputs.new_empty(B, N, M), inputs.new_empty(B, N, M)
        self.outputs, self.slopes = self.z.to(self.products), self.dz.to(self.products)
        if self.has_hidden:
            self.x = F.pad(inputs, (0, 1), value=1.0).to(self.products)
            self.a = self.x.new_empty(B, M, self.shapes[0][2])
            self.da = torch.empty_like(self.a)
        else:
            self.a = inputs.to(self.products)

    def forward(self) -> None:
        *hidden, weight, bias = self.W
        _rounded(self.numbers, self.factors)
        if self.has_hidden:
            torch.bmm(self.x, hidden[0], out=self.a).relu_()
        torch.baddbmm(bias[..., None], weight, self.a.mT, out=self.outputs)
        _rounded(self.outputs, self.z)

    def losses(self) -> Tensor:
        of_label = self.z.gather(1, self.labels.clamp_min(0)[:, None])[:, 0]
        return torch.where(self.labels >= 0, self.z.logsumexp(1) - of_label, 0.0).sum(1) / self.there

    def scores(self) -> Tensor:
        return accuracy(self.z.mT.contiguous(), self.labels)

    def backward(self) -> None:
        *hidden, weight, bias = self.g
        torch.softmax(self.z, 1, out=self.dz)
        torch.addcmul(self.minus_target, self.dz, self.share, out=self.dz)
        _rounded(self.dz, self.slopes)
        torch.bmm(self.slopes, self.a, out=weight)
        torch.sum(self.slopes, 2, out=bias)
        if self.has_hidden:
            torch.bmm(self.slopes.mT, self.W[1], out=self.da)
            torch.ops.aten.threshold_backward.grad_input(self.da, self.a, 0, grad_input=self.da)
            torch.bmm(self.x.mT, self.da, out=hidden[0])
        _rounded(self.product, self.gradient)


def _rounded(values: Tensor, to: Tensor) -> None:
    """``values`` in the format of ``to``, where that is another tensor."""
    if values is not to:
        to.copy_(values)
