"""The decay schedule (α_t, ᾱ_t), t = 0 … T; t = 0 is a trained head, t = T is noise."""

import math

import torch
from torch import Tensor, nn


class Schedule(nn.Module):
    """``alpha`` (T+1,) with α_0 = 1, and ``alpha_bar``, ᾱ_t = α_1 … α_t (T+1,), ᾱ_0 = 1; times t are integer tensors of
    any shape.

    What equation 1 makes of them is made once, for a GPU takes as long to be told of a number as of a thousand:
    ``root_alpha``, √α_t, and ``taken``, (1 − α_t)/√(1 − ᾱ_t), of which t = 0 has none.
    """

    alpha: Tensor
    alpha_bar: Tensor
    root_alpha: Tensor
    taken: Tensor

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("alpha_bar", alpha.cumprod(0), persistent=False)
        self.register_buffer("root_alpha", alpha.sqrt(), persistent=False)
        self.register_buffer("taken", (1 - alpha) / (1 - self.alpha_bar).sqrt(), persistent=False)

    @property
    def T(self) -> int:
        return len(self.alpha) - 1

    def alpha_bar_given(self, t: Tensor, k: Tensor) -> Tensor:
        """ᾱ_{t|k} = ᾱ_t / ᾱ_k: the decay of the sub-chain that ends at time k."""
        return self.alpha_bar[t] / self.alpha_bar[k]


def linear(T: int, max_beta: float, min_alpha_bar: float = 0.0) -> Schedule:
    """DDPM's β from 1e-4 to 0.02 over 1,000 steps, rescaled to T steps: unscaled, 20 steps leave ᾱ_T = 0.81."""
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T)
    return _from_beta(beta, max_beta, min_alpha_bar)


def cosine(T: int, max_beta: float, min_alpha_bar: float = 0.0) -> Schedule:
    """Nichol & Dhariwal 2021: ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s)·π/2), s = 0.008."""
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2).square()
    return _from_beta(1 - f[1:] / f[:-1], max_beta, min_alpha_bar)


SCHEDULES = {"linear": linear, "cosine": cosine}


def _from_beta(beta: Tensor, max_beta: float, min_alpha_bar: float) -> Schedule:
    """Build a schedule of β (T,), clipped at ``max_beta``, whose ᾱ_t is squeezed from [0, 1] into [``min_alpha_bar``,
    1]."""
    # one step multiplies every error of ε_φ by about 1/√α_t, which β near 1 makes large; the chain, by 1/√ᾱ_T
    alpha = torch.cat([torch.ones(1, dtype=torch.float64), 1 - beta.clamp(max=max_beta)])
    if min_alpha_bar:
        alpha_bar = min_alpha_bar + (1 - min_alpha_bar) * alpha.cumprod(0)
        alpha[1:] = alpha_bar[1:] / alpha_bar[:-1]
    return Schedule(alpha.float())
