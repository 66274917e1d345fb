"""Decay schedules (α_t, ᾱ_t) of the diffusion, t = 0 … T; t = 0 is a trained head, t = T is noise."""

import math

import torch
from torch import Tensor, nn


class Schedule(nn.Module):
    """Tables of a decay schedule, indexed by integer times t of any shape.

    The factors of equation 1 are tabulated too, because on a GPU each scalar operation costs a kernel launch.

    Args:
        alpha: α_t (T+1,) with α_0 = 1.
    """

    alpha: Tensor
    """α_t (T+1,), α_0 = 1."""
    alpha_bar: Tensor
    """ᾱ_t = α_1 … α_t (T+1,), ᾱ_0 = 1."""
    sqrt_alpha: Tensor
    """√α_t (T+1,)."""
    epsilon_factor: Tensor
    """(1 − α_t)/√(1 − ᾱ_t) (T+1,), the factor of ε_φ in equation 1; undefined at t = 0."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("alpha_bar", alpha.cumprod(0), persistent=False)
        self.register_buffer("sqrt_alpha", alpha.sqrt(), persistent=False)
        self.register_buffer("epsilon_factor", (1 - alpha) / (1 - self.alpha_bar).sqrt(), persistent=False)

    @property
    def T(self) -> int:
        """Number of diffusion steps."""
        return len(self.alpha) - 1

    def alpha_bar_given(self, t: Tensor, k: Tensor) -> Tensor:
        """Return ᾱ_{t|k} = ᾱ_t / ᾱ_k, the decay from time k to time t: that of the sub-chain that ends at k."""
        return self.alpha_bar[t] / self.alpha_bar[k]


def linear(T: int, max_beta: float, min_alpha_bar: float = 0.0) -> Schedule:
    """Build DDPM's linear schedule (Ho et al. 2020), β from 1e-4 to 0.02 over 1,000 steps, rescaled to T steps.

    Without rescaling, 20 steps would end at ᾱ_T = 0.81. β is clipped at ``max_beta``; ᾱ_T is at least
    ``min_alpha_bar``.
    """
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T)
    return _from_beta(beta, max_beta, min_alpha_bar)


def cosine(T: int, max_beta: float, min_alpha_bar: float = 0.0) -> Schedule:
    """Build the cosine schedule (Nichol & Dhariwal 2021), ᾱ_t = f(t)/f(0) with f(t) = cos²((t/T + s)/(1 + s)·π/2).

    s = 0.008. β is clipped at ``max_beta``; ᾱ_T is at least ``min_alpha_bar``.
    """
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2).square()
    return _from_beta(1 - f[1:] / f[:-1], max_beta, min_alpha_bar)


SCHEDULES = {"linear": linear, "cosine": cosine}
"""Schedules by the value of ``diffusion.schedule``."""


def _from_beta(beta: Tensor, max_beta: float, min_alpha_bar: float) -> Schedule:
    """Build a schedule from β (T,), clipped at ``max_beta``, with ᾱ_t mapped linearly into [``min_alpha_bar``, 1]."""
    # one step multiplies every error of ε_φ by about 1/√α_t, which β near 1 makes large; all steps, by 1/√ᾱ_T
    alpha = torch.cat([torch.ones(1, dtype=torch.float64), 1 - beta.clamp(max=max_beta)])
    if min_alpha_bar:
        alpha_bar = min_alpha_bar + (1 - min_alpha_bar) * alpha.cumprod(0)
        alpha[1:] = alpha_bar[1:] / alpha_bar[:-1]
    return Schedule(alpha.float())
