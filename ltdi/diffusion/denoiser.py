"""The denoisers: (x, t, condition) -> a vector of D numbers, which the process reads as ε, the weights, their difference from x, or v.

Both see a vector as tokens, one or a few neurons each, and the condition as one row a class slot. The
slots of ``per_slot`` layers (the head's output layer) share their weights in the transformer, which is
thereby exactly equivariant to the order of the classes; the U-Net, whose convolutions run along the
tokens, must learn it.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.nn import Attention, ResidualBlock1d, TimeEmbedding, TransformerBlock, zero
from ltdi.weights import WeightSpace


class ClassCondition(nn.Module):
    """Conditions (B, N, K, C), a row of C numbers a support image -> a row for each class slot (B, N, width)."""

    def __init__(self, n_condition: int, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.mean = nn.Linear(n_condition, width)
        self.single = nn.Linear(n_condition, width) if kind == "attention" else None
        self.attention = Attention(width, heads) if kind == "attention" else None

    def forward(self, condition: Tensor) -> Tensor:
        rows = self.mean(condition.mean(2))
        if self.attention is None:
            return rows
        B, N, K, _ = condition.shape
        # every class mean looks at the support images of all classes
        return rows + self.attention(rows, self.single(condition).reshape(B, N * K, -1))


class Tokens(nn.Module):
    """Vectors (B, C, D) of C channels <-> tokens (B, L, width), ``group`` neurons a token but one for a class slot."""

    def __init__(self, space: WeightSpace, channels: int, width: int, group: int, slot_layer: str) -> None:
        super().__init__()
        self.space = space
        # lists in the order of the layers: a layer's name may hold a dot, which module names must not
        self.groups, self.into, self.out, self.place = [], nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        for layer, (neurons, numbers) in space.token_shapes.items():
            g = 1 if layer == slot_layer else _largest_divisor(neurons, group)
            self.groups.append(g)
            self.into.append(nn.Linear(channels * g * numbers, width))
            self.out.append(zero(nn.Linear(width, g * numbers)))
            # class slots share their place, which makes them interchangeable
            self.place.append(nn.Parameter(0.02 * torch.randn(1 if layer == slot_layer else neurons // g, width)))
        self.norm = nn.LayerNorm(width)

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, C, D) -> layer -> (B, L_layer, width)."""
        tokens = {}
        for j, (layer, part) in enumerate(self.space.tokens(x).items()):
            # (B, C, tokens, group, numbers) -> (B, tokens, C·group·numbers)
            grouped = part.unflatten(2, (-1, self.groups[j])).transpose(1, 2).flatten(2)
            tokens[layer] = self.into[j](grouped) + self.place[j]
        return tokens

    def write(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``read`` for one channel: (B, D)."""
        vectors = {}
        for j, (layer, (_, numbers)) in enumerate(self.space.token_shapes.items()):
            vectors[layer] = self.out[j](self.norm(tokens[layer])).unflatten(-1, (self.groups[j], numbers)).flatten(1, 2)
        return self.space.from_tokens(vectors)


class TransformerDenoiser(nn.Module):
    """A transformer over neuron tokens and class slots."""

    def __init__(
        self, space: WeightSpace, slot_layer: str, n_condition: int, *, channels: int, width: int, depth: int, heads: int, neurons_a_token: int, condition: str
    ) -> None:
        super().__init__()
        self.tokens = Tokens(space, channels, width, neurons_a_token, slot_layer)
        self.slot_layer = slot_layer
        self.condition = ClassCondition(n_condition, width, heads, condition)
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x (B, channels, D), t (B,), conditions (B, N, K, C) -> (B, D)."""
        tokens = self.tokens.read(x)
        tokens[self.slot_layer] = tokens[self.slot_layer] + self.condition(condition)
        lengths = [part.shape[1] for part in tokens.values()]
        h = torch.cat(list(tokens.values()), dim=1) + self.time(t)[:, None]
        for block in self.blocks:
            h = block(h)
        return self.tokens.write(dict(zip(tokens, h.split(lengths, dim=1))))


class UNetDenoiser(nn.Module):
    """A U-Net in the manner of latent diffusion (Rombach et al. 2022), along the sequence of tokens.

    ``depth`` halvings; at every level a residual block and cross-attention to the class conditions,
    which carry the number of their label, because convolutions do not know which token is which slot.
    """

    def __init__(
        self, space: WeightSpace, slot_layer: str, n_condition: int, *, channels: int, width: int, depth: int, heads: int, neurons_a_token: int, condition: str
    ) -> None:
        super().__init__()
        self.tokens = Tokens(space, channels, width, neurons_a_token, slot_layer)
        self.condition = ClassCondition(n_condition, width, heads, condition)
        n_way = space.token_shapes[slot_layer][0]
        self.label = nn.Parameter(0.02 * torch.randn(n_way, width))
        self.time = TimeEmbedding(width)
        widths = [width * min(2**level, 4) for level in range(depth + 1)]
        self.down = nn.ModuleList(_Level(a, b, width, heads) for a, b in zip([width, *widths], widths))
        self.up = nn.ModuleList(_Level(a + b, b, width, heads) for a, b in zip(widths[:0:-1], widths[-2::-1]))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x (B, channels, D), t (B,), conditions (B, N, K, C) -> (B, D)."""
        tokens = self.tokens.read(x)
        lengths = [part.shape[1] for part in tokens.values()]
        context = self.condition(condition) + self.label
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
        return self.tokens.write(dict(zip(tokens, h.mT.split(lengths, dim=1))))


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
