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

    Tensors whose names share all but the last part are a layer and must agree in their first axis, the neurons. None
    there stands for a neuron a class: such a layer, one at most, holds the class slots, and their number is read
    from the width of a vector, so that one space serves tasks of any number of classes.

    ``kinds`` names layers that are of one kind in a repeated block, e.g. the queries of all layers of a language model:
    what is learned of one may be used for all of them. A layer that it leaves out is a kind of its own.

    Raises:
        ValueError: the tensors of a layer disagree in their neurons, layers of one kind in their shape, or two layers
            have a neuron a class.
    """

    def __init__(self, shapes: Mapping[str, tuple[int | None, ...]], kinds: Mapping[str, str] | None = None) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.layers: dict[str, list[str]] = {}
        for name in self.shapes:
            self.layers.setdefault(name.rpartition(".")[0], []).append(name)
        self.neurons: dict[str, int | None] = {}
        for layer, names in self.layers.items():
            neurons = {self.shapes[name][0] for name in names}
            if len(neurons) > 1:
                raise ValueError(f"layer {layer!r} has tensors of {sorted(neurons, key=str)} neurons; they must agree")
            self.neurons[layer] = neurons.pop()
        # of each tensor how many numbers it has for a neuron
        self.columns = {layer: [self._numbers(name) for name in names] for layer, names in self.layers.items()}
        self.numbers = {layer: sum(columns) for layer, columns in self.columns.items()}
        self._sizes: dict[int, list[tuple[int, int]]] = {}
        self.kinds = {layer: (kinds or {}).get(layer, layer) for layer in self.layers}
        first = {kind: layer for layer, kind in reversed(self.kinds.items())}
        for layer, kind in self.kinds.items():
            if self._size(layer) != self._size(first[kind]):
                raise ValueError(f"layers {first[kind]!r} and {layer!r} are of one kind {kind!r}, and of other sizes")
        slots = [layer for layer, neurons in self.neurons.items() if neurons is None]
        if len(slots) > 1:
            raise ValueError(f"layers {slots} all have a neuron a class; one may")
        self.slot_layer = slots[0] if slots else None

    def _size(self, layer: str) -> tuple[int | None, int]:
        return self.neurons[layer], self.numbers[layer]

    def _numbers(self, name: str) -> int:
        """How many numbers a tensor has for each neuron."""
        return prod(size for size in self.shapes[name][1:] if size is not None)

    def dim(self, n_way: int = 0) -> int:
        """D for tasks of ``n_way`` classes."""
        return sum(
            (n_way if neurons is None else neurons) * self.numbers[layer] for layer, neurons in self.neurons.items()
        )

    def sizes(self, dim: int) -> list[tuple[int, int]]:
        """(neurons, numbers a neuron) of each layer in a vector of ``dim`` numbers."""
        if dim not in self._sizes:
            self._sizes[dim] = self._sizes_of(dim)
        return self._sizes[dim]

    def _sizes_of(self, dim: int) -> list[tuple[int, int]]:
        n_way = (dim - self.dim()) // self.numbers[self.slot_layer] if self.slot_layer else 0
        if n_way < 0 or self.dim(n_way) != dim:
            raise ValueError(f"no number of classes makes a vector of {dim} numbers here")
        return [(n_way if neurons is None else neurons, self.numbers[layer]) for layer, neurons in self.neurons.items()]

    def tokens(self, w: Tensor) -> dict[str, Tensor]:
        """w (…, D) -> layer -> (…, neurons, numbers a neuron), views of ``w``."""
        sizes = self.sizes(w.shape[-1])
        parts = w.split_with_sizes([neurons * numbers for neurons, numbers in sizes], dim=-1)
        return {layer: part.unflatten(-1, size) for layer, size, part in zip(self.layers, sizes, parts)}

    def from_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``tokens``: (…, D)."""
        return torch.cat([tokens[layer].flatten(-2) for layer in self.layers], dim=-1)

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """w (…, D) -> name -> (…, *shape)."""
        tensors = {}
        for layer, tokens in self.tokens(w).items():
            columns = zip(self.layers[layer], tokens.split_with_sizes(self.columns[layer], dim=-1))
            for name, column in columns:
                shape = self.shapes[name][1:]
                tensors[name] = column if len(shape) == 1 else column.reshape(*column.shape[:-1], *shape)
        return tensors

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``unflatten``: (…, D)."""
        return self.from_tokens({layer: self._layer(layer, tensors) for layer in self.layers})

    def _layer(self, layer: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """(…, neurons, numbers a neuron)"""
        # the first axis of a tensor that is not the batch's holds its neurons
        columns = [
            tensors[name].flatten(tensors[name].dim() - len(self.shapes[name]) + 1)
            if len(self.shapes[name]) > 1
            else tensors[name][..., None]
            for name in self.layers[layer]
        ]
        return torch.cat(columns, dim=-1)

    def replaced(self, w: Tensor, layer: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """w (…, D) with all of a layer's tensors by name in the place of its own."""
        return self.from_tokens(self.tokens(w) | {layer: self._layer(layer, tensors)})

    def some_slots(self, w: Tensor, n_way: int) -> Tensor:
        """w (…, D) without the slots of all but the first ``n_way`` classes: the network that tells these from each
        other."""
        if self.slot_layer is None:
            return w
        tokens = self.tokens(w)
        return self.from_tokens(tokens | {self.slot_layer: tokens[self.slot_layer][..., :n_way, :]})

    def spread(self, values: Tensor, dim: int) -> Tensor:
        """A number a layer (…, layers), repeated for all numbers of the layer: (…, ``dim``)."""
        parts = zip(values.split(1, dim=-1), self.sizes(dim))
        return torch.cat([value.expand(*value.shape[:-1], prod(size)) for value, size in parts], dim=-1)
