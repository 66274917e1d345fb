"""The denoisers: (x, t, support) -> a vector of D numbers, which the process reads as ε, the weights, their difference
from x, or v.

Both see a vector as tokens, one or a few neurons each, and the support set as one row a class. The class slots of the
vector share their weights in the transformer, which is thereby exactly equivariant to the order of the classes and
serves any number of them; the U-Net, whose convolutions run along the tokens, must learn an order, of one number.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.learners.weight_space import WeightSpace
from ltdi.utils.nn import Attention, ResidualBlock1d, Standardise, TimeEmbedding, TransformerBlock, masked_mean, zero


class ClassCondition(nn.Module):
    """Support features (B, N, K, F), of which ``present`` (B, N, K) are there, None for all -> a row for each class
    slot (B, N, width).

    Features are standardised first: a body's are never negative, and as they are they would be one large constant and
    little signal.
    """

    def __init__(self, n_features: int, width: int, heads: int, kind: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.standardise = Standardise(n_features)
        self.dropout = nn.Dropout(dropout)
        self.mean = nn.Linear(n_features, width)
        self.single = nn.Linear(n_features, width) if kind == "attention" else None
        self.attention = Attention(width, heads) if kind == "attention" else None

    def forward(self, features: Tensor, present: Tensor | None) -> Tensor:
        features = self.standardise(features)
        rows = self.mean(self.dropout(masked_mean(features, present)))
        if self.attention is None or self.single is None:
            return rows
        # every class mean looks at the support images of all classes
        bias = None if present is None else -1e9 * (1 - present).flatten(-2)[..., None, None, :]
        return rows + self.attention(rows, self.single(features).flatten(-3, -2), bias)


class Tokens(nn.Module):
    """Vectors (B, C, D) of C channels <-> tokens (B, L, width), ``group`` neurons a token but one for a class slot.

    Layers of one kind share how they are read and written, and differ by their place alone.
    """

    def __init__(self, space: WeightSpace, channels: int, width: int, group: int) -> None:
        super().__init__()
        self.space = space
        # lists in the order of the layers: a layer's name may hold a dot, which module names must not
        self.groups, self.into, self.out, self.place = [], nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        kinds = list(dict.fromkeys(space.kinds.values()))
        self.kinds = [kinds.index(kind) for kind in space.kinds.values()]
        for kind, (layer, neurons) in zip(self.kinds, space.neurons.items()):
            # class slots share their place, which makes them interchangeable
            g, places = (1, 1) if neurons is None else (g := _largest_divisor(neurons, group), neurons // g)
            self.groups.append(g)
            if kind == len(self.into):
                self.into.append(nn.Linear(channels * g * space.numbers[layer], width))
                self.out.append(zero(nn.Linear(width, g * space.numbers[layer])))
            self.place.append(nn.Parameter(0.02 * torch.randn(places, width)))
        self.norm = nn.LayerNorm(width)

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, C, D) -> layer -> (B, L_layer, width)."""
        tokens = {}
        for j, (layer, part) in enumerate(self.space.tokens(x).items()):
            # (B, C, tokens, group, numbers) -> (B, tokens, C·group·numbers)
            grouped = part.unflatten(2, (-1, self.groups[j])).transpose(1, 2).flatten(2)
            tokens[layer] = self.into[self.kinds[j]](grouped) + self.place[j]
        return tokens

    def told(self, tokens: dict[str, Tensor], condition: Tensor) -> dict[str, Tensor]:
        """The tokens with what is known of each slot (B, N, width) added to it; without slots, its mean to every
        token."""
        slots = self.space.slot_layer
        if slots is None:
            return {layer: part + condition.mean(1, keepdim=True) for layer, part in tokens.items()}
        return tokens | {slots: tokens[slots] + condition}

    def write(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``read`` for one channel: (B, D)."""
        vectors = {}
        for layer, kind in zip(self.space.layers, self.kinds):
            vectors[layer] = self.out[kind](self.norm(tokens[layer]))  # its neurons one after the other
        return self.space.from_tokens(vectors)


def _at(table: Tensor, t: Tensor) -> Tensor:
    """Rows of a table (T+1, …) at times t (B,); a time between two steps, of a flow, has that of the step below."""
    return table[t.long().clamp(max=len(table) - 1) if t.is_floating_point() else t]


class Skip(nn.Module):
    """g[t, layer]·x_t (B, D) with learned factors g: tokens are narrower than the weights that they stand for, and ε is
    x_t itself but for a small part where t is large."""

    def __init__(self, space: WeightSpace, steps: int) -> None:
        super().__init__()
        self.space = space
        self.factor = nn.Parameter(torch.zeros(steps + 1, len(space.layers)))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.space.spread(_at(self.factor, t), x_t.shape[-1]) * x_t


class LinearMap(nn.Module):
    """g[t]·A(z_n, mean of the other classes' z) added to the slots' part of the output (B, D), z the standardised class
    means: the linear map from classes to their weights, which a network of many layers takes long to learn."""

    def __init__(self, space: WeightSpace, n_features: int, steps: int) -> None:
        super().__init__()
        assert space.slot_layer is not None
        self.space, self.slots = space, space.slot_layer
        self.map = zero(nn.Linear(2 * n_features, space.numbers[space.slot_layer]))
        self.factor = nn.Parameter(torch.ones(steps + 1))

    def forward(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        others = (z.sum(1, keepdim=True) - z) / max(1, z.shape[1] - 1)
        tokens = self.space.tokens(output)
        linear_map = _at(self.factor, t)[:, None, None] * self.map(torch.cat([z, others], -1))
        return self.space.from_tokens(tokens | {self.slots: tokens[self.slots] + linear_map})


class TransformerDenoiser(nn.Module):
    """A transformer over neuron tokens and class slots."""

    def __init__(
        self,
        space: WeightSpace,
        n_features: int,
        *,
        n_way: int,
        channels: int,
        steps: int,
        width: int,
        depth: int,
        heads: int,
        neurons_a_token: int,
        condition: str,
        dropout: float,
        skip: bool = False,
        linear_map: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(space, channels, width, neurons_a_token)
        self.condition = ClassCondition(n_features, width, heads, condition, dropout)
        self.skip = Skip(space, steps) if skip else None
        self.linear_map = LinearMap(space, n_features, steps) if linear_map and space.slot_layer else None
        self.time = TimeEmbedding(width, steps)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))

    def forward(self, x: Tensor, t: Tensor, features: Tensor, present: Tensor | None) -> Tensor:
        """x (B, channels, D), t (B,), support features (B, N, K, F) and which are there (B, N, K) -> (B, D)."""
        tokens = self.tokens.read(x)
        tokens = self.tokens.told(tokens, self.condition(features, present))
        lengths = [part.shape[1] for part in tokens.values()]
        h = torch.cat(list(tokens.values()), dim=1) + self.time(t)[:, None]
        for block in self.blocks:
            h = block(h)
        output = self.tokens.write(dict(zip(tokens, h.split(lengths, dim=1))))
        if self.linear_map is not None:
            output = self.linear_map(output, masked_mean(self.condition.standardise(features), present), t)
        return output if self.skip is None else output + self.skip(x[:, 0], t)


class UNetDenoiser(nn.Module):
    """A U-Net in the manner of latent diffusion (Rombach et al. 2022), along the sequence of tokens.

    ``depth`` halvings; at every level a residual block and cross-attention to the class conditions,
    which carry the number of their label, because convolutions do not know which token is which slot.
    """

    def __init__(
        self,
        space: WeightSpace,
        n_features: int,
        *,
        n_way: int,
        channels: int,
        steps: int,
        width: int,
        depth: int,
        heads: int,
        neurons_a_token: int,
        condition: str,
        dropout: float,
        skip: bool = False,
        linear_map: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(space, channels, width, neurons_a_token)
        self.condition = ClassCondition(n_features, width, heads, condition, dropout)
        self.skip = Skip(space, steps) if skip else None
        self.linear_map = LinearMap(space, n_features, steps) if linear_map and space.slot_layer else None
        self.label = nn.Parameter(0.02 * torch.randn(n_way, width))
        self.time = TimeEmbedding(width, steps)
        widths = [width * min(2**level, 4) for level in range(depth + 1)]
        self.down = nn.ModuleList(_Level(a, b, width, heads) for a, b in zip([width, *widths], widths))
        self.up = nn.ModuleList(_Level(a + b, b, width, heads) for a, b in zip(widths[:0:-1], widths[-2::-1]))

    def forward(self, x: Tensor, t: Tensor, features: Tensor, present: Tensor | None) -> Tensor:
        """x (B, channels, D), t (B,), support features (B, N, K, F) and which are there (B, N, K) -> (B, D)."""
        condition = self.condition(features, present)
        # a slot's token has its class's condition: cross-attention alone would have to learn which slot is which class
        tokens = self.tokens.told(self.tokens.read(x), condition)
        lengths = [part.shape[1] for part in tokens.values()]
        context = condition + self.label
        time = self.time(t)
        h = torch.cat(list(tokens.values()), dim=1).mT
        skips = []
        for level, block in enumerate(self.down):
            h = block(h, time, context)
            if level < len(self.down) - 1:
                skips.append(h)
                h = F.avg_pool1d(h, 2, ceil_mode=True)
        for block in self.up:
            skip = skips.pop()
            h = h.repeat_interleave(2, dim=-1)[..., : skip.shape[-1]]
            h = block(torch.cat([h, skip], dim=1), time, context)
        output = self.tokens.write(dict(zip(tokens, h.mT.split(lengths, dim=1))))
        if self.linear_map is not None:
            output = self.linear_map(output, masked_mean(self.condition.standardise(features), present), t)
        return output if self.skip is None else output + self.skip(x[:, 0], t)


class _Level(nn.Module):
    def __init__(self, width_in: int, width_out: int, condition: int, heads: int) -> None:
        super().__init__()
        self.residual = ResidualBlock1d(width_in, width_out, condition)
        self.norm = nn.LayerNorm(width_out)
        self.attention = Attention(width_out, heads, condition)

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        h = self.residual(h, time).mT
        return (h + self.attention(self.norm(h), context)).mT


DENOISERS = {"transformer": TransformerDenoiser, "unet": UNetDenoiser}


def _largest_divisor(n: int, at_most: int) -> int:
    return max(d for d in range(1, min(n, at_most) + 1) if n % d == 0)
