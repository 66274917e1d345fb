"""Denoisers (x_t, t, support set) -> (B, D), a transformer and a U-Net over tokens of weights.

The process interprets the output as ε, x₀, the residual or v. A weight vector is read as tokens of one or a few neurons
each, the support set as one conditioning vector per class. In the transformer all class slots share parameters: it is
equivariant to permutations of the classes and works for any n_way. The U-Net convolves along the tokens, so that it
depends on the order of the classes and on a fixed n_way.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.learners.weight_space import WeightSpace
from ltdi.utils.nn import Attention, ResidualBlock1d, Standardise, TimeEmbedding, TransformerBlock, masked_mean, zero


class SupportEncoder(nn.Module):
    """Encode the support set as one class-conditioning vector per class: (B, N, K, F) -> (B, N, width).

    Features are standardised first, because those of a backbone that ends in ReLU are non-negative with a large mean.

    Args:
        kind: "mean" projects the class mean; "attention" lets it attend to the support images of all classes too.
    """

    def __init__(self, n_features: int, width: int, heads: int, kind: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.standardise = Standardise(n_features)
        self.dropout = nn.Dropout(dropout)
        self.mean = nn.Linear(n_features, width)
        self.single = nn.Linear(n_features, width) if kind == "attention" else None
        self.attention = Attention(width, heads) if kind == "attention" else None

    def forward(self, features: Tensor, present: Tensor | None) -> Tensor:
        """Encode features (B, N, K, F), ``present`` (B, N, K) 1 for a row and 0 for padding, None for no padding."""
        features = self.standardise(features)
        rows = self.mean(self.dropout(masked_mean(features, present)))
        if self.attention is None or self.single is None:
            return rows
        # every class mean attends to the support images of all classes
        bias = None if present is None else -1e9 * (1 - present).flatten(-2)[..., None, None, :]
        return rows + self.attention(rows, self.single(features).flatten(-3, -2), bias)


class WeightTokenizer(nn.Module):
    """Map weight vectors (B, channels, D) to tokens (B, L, width) by layer, and back.

    A token is ``group`` neurons, or one class slot. Layers of one kind share their projections and differ in their
    positional embeddings.
    """

    def __init__(self, space: WeightSpace, channels: int, width: int, group: int) -> None:
        super().__init__()
        self.space = space
        # lists in the order of the layers: a layer's name may hold a dot, which module names must not
        self.groups, self.into, self.out, self.place = [], nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        kinds = list(dict.fromkeys(space.kinds.values()))
        self.kinds = [kinds.index(kind) for kind in space.kinds.values()]
        for kind, (layer, neurons) in zip(self.kinds, space.neurons.items()):
            # class slots share their positional embedding, which makes them interchangeable
            g, places = (1, 1) if neurons is None else (g := _largest_divisor(neurons, group), neurons // g)
            self.groups.append(g)
            if kind == len(self.into):
                self.into.append(nn.Linear(channels * g * space.numbers[layer], width))
                self.out.append(zero(nn.Linear(width, g * space.numbers[layer])))
            self.place.append(nn.Parameter(0.02 * torch.randn(places, width)))
        self.norm = nn.LayerNorm(width)

    def tokenize(self, x: Tensor) -> dict[str, Tensor]:
        """Embed x (B, channels, D) as tokens by layer, (B, L_layer, width) each."""
        tokens = {}
        for j, (layer, part) in enumerate(self.space.tokens(x).items()):
            # (B, C, tokens, group, numbers) -> (B, tokens, C·group·numbers)
            grouped = part.unflatten(2, (-1, self.groups[j])).transpose(1, 2).flatten(2)
            tokens[layer] = self.into[self.kinds[j]](grouped) + self.place[j]
        return tokens

    def add_conditioning(self, tokens: dict[str, Tensor], condition: Tensor) -> dict[str, Tensor]:
        """Add class-conditioning vectors (B, N, width) to the class slots; without slots, their mean to all tokens."""
        slots = self.space.slot_layer
        if slots is None:
            return {layer: part + condition.mean(1, keepdim=True) for layer, part in tokens.items()}
        return tokens | {slots: tokens[slots] + condition}

    def detokenize(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Map tokens back to one vector (B, D)."""
        vectors = {}
        for layer, kind in zip(self.space.layers, self.kinds):
            vectors[layer] = self.out[kind](self.norm(tokens[layer]))  # its neurons one after the other
        return self.space.from_tokens(vectors)


def _at(table: Tensor, t: Tensor) -> Tensor:
    """Look up a table (T+1, …) at times t (B,); fractional times, of a flow, are rounded down."""
    return table[t.long().clamp(max=len(table) - 1) if t.is_floating_point() else t]


class Skip(nn.Module):
    """Skip connection g[t, layer]·x_t (B, D) with learned factors g.

    Tokens are narrower than the weights that they embed, and at large t the target ε is nearly x_t itself.
    """

    def __init__(self, space: WeightSpace, steps: int) -> None:
        super().__init__()
        self.space = space
        self.factor = nn.Parameter(torch.zeros(steps + 1, len(space.layers)))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Scale x_t (B, D) by the factors at times t (B,): (B, D)."""
        return self.space.spread(_at(self.factor, t), x_t.shape[-1]) * x_t


class LinearMap(nn.Module):
    """Add a linear map of the class means to the class slots of the denoiser's output.

    Slot n gets g[t]·A(z_n, mean of the other classes' z), z the standardised class means and g learned factors: the
    linear part of the map from classes to weights, which a deep network is slow to learn.
    """

    def __init__(self, space: WeightSpace, n_features: int, steps: int) -> None:
        super().__init__()
        assert space.slot_layer is not None
        self.space, self.slots = space, space.slot_layer
        self.map = zero(nn.Linear(2 * n_features, space.numbers[space.slot_layer]))
        self.factor = nn.Parameter(torch.ones(steps + 1))

    def forward(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Add the map of z (B, N, F) at times t (B,) to ``output`` (B, D): (B, D)."""
        others = (z.sum(1, keepdim=True) - z) / max(1, z.shape[1] - 1)
        tokens = self.space.tokens(output)
        linear_map = _at(self.factor, t)[:, None, None] * self.map(torch.cat([z, others], -1))
        return self.space.from_tokens(tokens | {self.slots: tokens[self.slots] + linear_map})


class TransformerDenoiser(nn.Module):
    """Transformer denoiser over neuron tokens and class slots; equivariant to the order of the classes.

    Args:
        space: layout of the weight vectors.
        n_features: numbers F of a support row.
        n_way: ignored: any number of classes.
        channels: input vectors, x_t and further ones of the same layout.
        steps: diffusion steps T.
        width, depth, heads, dropout: of the transformer.
        neurons_a_token: at most so many neurons per token.
        condition: "mean" or "attention", the kind of ``SupportEncoder``.
        skip, linear_map: whether ``Skip`` and ``LinearMap`` are added to the output.
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
        self.tokenizer = WeightTokenizer(space, channels, width, neurons_a_token)
        self.condition = SupportEncoder(n_features, width, heads, condition, dropout)
        self.skip = Skip(space, steps) if skip else None
        self.linear_map = LinearMap(space, n_features, steps) if linear_map and space.slot_layer else None
        self.time = TimeEmbedding(width, steps)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))

    def forward(self, x: Tensor, t: Tensor, features: Tensor, present: Tensor | None) -> Tensor:
        """Denoise x (B, channels, D) at times t (B,), given the support set: (B, D).

        Args:
            features: support features (B, N, K, F).
            present: 1 for a row, 0 for padding (B, N, K); None for no padding.
        """
        tokens = self.tokenizer.tokenize(x)
        tokens = self.tokenizer.add_conditioning(tokens, self.condition(features, present))
        lengths = [part.shape[1] for part in tokens.values()]
        h = torch.cat(list(tokens.values()), dim=1) + self.time(t)[:, None]
        for block in self.blocks:
            h = block(h)
        output = self.tokenizer.detokenize(dict(zip(tokens, h.split(lengths, dim=1))))
        if self.linear_map is not None:
            output = self.linear_map(output, masked_mean(self.condition.standardise(features), present), t)
        return output if self.skip is None else output + self.skip(x[:, 0], t)


class UNetDenoiser(nn.Module):
    """U-Net denoiser along the sequence of tokens, after latent diffusion (Rombach et al. 2022).

    ``depth`` halvings of the length; at every level a residual block and cross-attention to the class-conditioning
    vectors, to which a label embedding is added, because convolutions cannot identify a token's slot. The arguments
    are those of ``TransformerDenoiser``, but for ``n_way``, which is fixed.
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
        self.tokenizer = WeightTokenizer(space, channels, width, neurons_a_token)
        self.condition = SupportEncoder(n_features, width, heads, condition, dropout)
        self.skip = Skip(space, steps) if skip else None
        self.linear_map = LinearMap(space, n_features, steps) if linear_map and space.slot_layer else None
        self.label = nn.Parameter(0.02 * torch.randn(n_way, width))
        self.time = TimeEmbedding(width, steps)
        widths = [width * min(2**level, 4) for level in range(depth + 1)]
        self.down = nn.ModuleList(_Level(a, b, width, heads) for a, b in zip([width, *widths], widths))
        self.up = nn.ModuleList(_Level(a + b, b, width, heads) for a, b in zip(widths[:0:-1], widths[-2::-1]))

    def forward(self, x: Tensor, t: Tensor, features: Tensor, present: Tensor | None) -> Tensor:
        """Denoise x (B, channels, D) at times t (B,), given the support set: (B, D).

        Args:
            features: support features (B, N, K, F).
            present: 1 for a row, 0 for padding (B, N, K); None for no padding.
        """
        condition = self.condition(features, present)
        # slots get their class's vector directly: cross-attention alone would have to learn which slot is which class
        tokens = self.tokenizer.add_conditioning(self.tokenizer.tokenize(x), condition)
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
        output = self.tokenizer.detokenize(dict(zip(tokens, h.mT.split(lengths, dim=1))))
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
"""Denoisers by the value of ``denoiser.name``."""


def _largest_divisor(n: int, at_most: int) -> int:
    return max(d for d in range(1, min(n, at_most) + 1) if n % d == 0)
