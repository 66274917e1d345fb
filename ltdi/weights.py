"""WeightSpace: named tensors of a network <-> one flat vector of D numbers <-> tokens, a neuron each.

The only file that knows the layout of the vector: layer by layer, in a layer neuron by neuron, and of
a neuron its incoming weights, then its bias. A layer's part of the vector is thus a matrix of tokens
without a copy.
"""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor


class WeightSpace:
    """An ordered choice of a network's tensors, e.g. ``{"hidden.weight": (H, F), "hidden.bias": (H,), …}``.

    Tensors whose names share all but the last part are a layer and must agree in their first axis, the neurons.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.layers: dict[str, list[str]] = {}
        for name in self.shapes:
            self.layers.setdefault(name.rpartition(".")[0], []).append(name)
        for layer, names in self.layers.items():
            neurons = {self.shapes[name][0] for name in names}
            if len(neurons) > 1:
                raise ValueError(f"layer {layer!r} has tensors of {sorted(neurons)} neurons; they must agree")

    @property
    def token_shapes(self) -> dict[str, tuple[int, int]]:
        """Layer -> (number of neurons, numbers a neuron)."""
        return {
            layer: (self.shapes[names[0]][0], sum(prod(self.shapes[name][1:]) for name in names))
            for layer, names in self.layers.items()
        }

    @property
    def dim(self) -> int:
        """D"""
        return sum(neurons * numbers for neurons, numbers in self.token_shapes.values())

    def tokens(self, w: Tensor) -> dict[str, Tensor]:
        """w (…, D) -> layer -> (…, neurons, numbers a neuron), views of ``w``."""
        shapes = self.token_shapes
        parts = w.split([prod(shape) for shape in shapes.values()], dim=-1)
        return {layer: part.unflatten(-1, shape) for (layer, shape), part in zip(shapes.items(), parts)}

    def from_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``tokens``: (…, D)."""
        return torch.cat([tokens[layer].flatten(-2) for layer in self.layers], dim=-1)

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """w (…, D) -> name -> (…, *shape)."""
        tensors = {}
        for layer, tokens in self.tokens(w).items():
            names = self.layers[layer]
            columns = tokens.split([prod(self.shapes[name][1:]) for name in names], dim=-1)
            for name, column in zip(names, columns):
                tensors[name] = column.reshape(*w.shape[:-1], *self.shapes[name])
        return tensors

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``unflatten``: (…, D)."""
        layers = {}
        for layer, names in self.layers.items():
            columns = []
            for name in names:
                batch = tensors[name].shape[: tensors[name].dim() - len(self.shapes[name])]
                columns.append(tensors[name].reshape(*batch, self.shapes[name][0], prod(self.shapes[name][1:])))
            layers[layer] = torch.cat(columns, dim=-1)
        return self.from_tokens(layers)

    def layer_scale(self, w: Tensor) -> Tensor:
        """The root mean square of each layer over all of w (M, D): (layers,); 1 where a layer is all zero."""
        scale = torch.stack([part.square().mean().sqrt() for part in self.tokens(w.double()).values()])
        return torch.where(scale > 0, scale, 1.0).to(w.dtype)

    def spread(self, values: Tensor) -> Tensor:
        """A number a layer (…, layers), repeated for all numbers of the layer: (…, D)."""
        sizes = torch.tensor([neurons * numbers for neurons, numbers in self.token_shapes.values()], device=values.device)
        return values.repeat_interleave(sizes, dim=-1, output_size=self.dim)
