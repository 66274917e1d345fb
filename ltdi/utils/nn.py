"""Blocks of networks: no project concepts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Times (B,) -> (B, width): sines and cosines of the time, through a small network. Whole times, integers of 0 … T,
    have theirs in a table."""

    waves: Tensor

    def __init__(self, width: int, T: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("waves", self._waves(torch.arange(T + 1)), persistent=False)
        self.network = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.network(self._waves(t) if t.is_floating_point() else self.waves[t])

    def _waves(self, t: Tensor) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(-math.log(1000.0) * torch.arange(half, device=t.device) / half)
        angles = t[:, None].float() * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return F.pad(waves, (0, self.width - 2 * half))


class Attention(nn.Module):
    """Multi-head attention of queries (B, L, width) to a context (B, S, context_width), with a bias (heads, L, S) on
    its logits."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        # rows of all sets together, then heads of all sets together: each other view of them would be one call more
        B, L, _ = x.shape
        q = self.q(x.flatten(0, 1)).view(B, L, self.heads, -1).transpose(1, 2).flatten(0, 1)
        kv = self.kv(context.flatten(0, 1)).view(B, context.shape[1], 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)
        # written out: the fused kernel has no batching rule, and REPTILE's inner loops run under vmap
        logits = torch.bmm(q, k.mT.flatten(0, 1)) / math.sqrt(q.shape[-1])
        if bias is not None:
            logits = (logits.unflatten(0, (B, -1)) + bias).flatten(0, 1)
        read = torch.bmm(logits.softmax(-1), v.flatten(0, 1))
        return self.out(read.unflatten(0, (B, -1)).transpose(1, 2).reshape(B * L, -1)).unflatten(0, (B, L))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a two-layer network, both residual: (B, L, width) -> (B, L, width)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self.norm_attention(x)
        x = x + self.attention(y, y, bias)
        return x + self.mlp(self.norm_mlp(x).flatten(0, 1)).view_as(x)


class ResidualBlock1d(nn.Module):
    """Two convolutions along a sequence (B, in, L) -> (B, out, L), the embedding (B, emb) added between them."""

    def __init__(self, width_in: int, width_out: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(_groups(width_in), width_in), nn.SiLU(), nn.Conv1d(width_in, width_out, 3, padding=1)
        )
        self.embedding = nn.Linear(embedding, width_out)
        self.second = nn.Sequential(
            nn.GroupNorm(_groups(width_out), width_out), nn.SiLU(), nn.Conv1d(width_out, width_out, 3, padding=1)
        )
        self.skip = nn.Conv1d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.first(x) + self.embedding(embedding)[..., None]
        return self.skip(x) + self.second(y)


def _groups(width: int) -> int:
    return math.gcd(width, 8)


class Standardise(nn.Module):
    """(x − mean) / deviation of numbers (…, F), by buffers; they are 0 and 1 until ``fit``."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_numbers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_numbers))
        self.register_buffer("deviation", torch.ones(n_numbers))

    def fit(self, mean: Tensor, deviation: Tensor) -> None:
        """Set the buffers (F,); a number that never varies is left at its own size."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6 * mean.abs().clamp_min(1e-6), deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def masked_mean(x: Tensor, present: Tensor | None) -> Tensor:
    """The mean over the rows x (…, K, C) that are there: present (…, K) is 1 or 0, None where all are. (…, C)"""
    if present is not None:
        return (x * present[..., None]).sum(-2) / present.sum(-1, keepdim=True)
    return x.squeeze(-2) if x.shape[-2] == 1 else x.mean(-2)


def solved(matrix: Tensor, y: Tensor) -> Tensor:
    """matrix⁻¹ y of symmetric positive definite matrices (…, R, R), y (…, R, N).

    By Cholesky's factors: what the general solver makes of several of 150 rows, on several threads, is wrong or never
    ends (pytorch's issue 142815).
    """
    lower, _ = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.solve_triangular(lower.mT, torch.linalg.solve_triangular(lower, y, upper=False), upper=True)


def zero(module: nn.Linear) -> nn.Linear:
    """The layer with all its weights zero: what follows it starts as nothing."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module
