"""Reverse diffusion from x_T to x_0, by the mean of DDPM (equation 1) or by DDIM."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ltdi.diffusion.process import VanillaProcess

Step = Callable[[VanillaProcess, Tensor, Tensor, int], Tensor]
"""One denoising step: (process, x_t (B, D), ε_φ(x_t, t) (B, D), t) -> x_{t−1} (B, D)."""


def ddpm(process: VanillaProcess, x_t: Tensor, epsilon: Tensor, t: int) -> Tensor:
    """Take DDPM's mean step: x_{t−1} = (x_t − (1 − α_t)/√(1 − ᾱ_t)·ε_φ)/√α_t (equation 1)."""
    return (x_t - process.schedule.epsilon_factor[t] * epsilon) / process.schedule.sqrt_alpha[t]


def ddim(process: VanillaProcess, x_t: Tensor, epsilon: Tensor, t: int) -> Tensor:
    """Take a deterministic DDIM step (Song et al. 2021) in the sub-chain that ends at time k.

    x_{t−1} = √ᾱ_{t−1|k}·ŵ + √(1 − ᾱ_{t−1|k})·ε̂, where x_t = √ᾱ_{t|k}·ŵ + √(1 − ᾱ_{t|k})·ε̂.
    """
    root_a, root_rest, correction = process.target_factors[t]
    noise = epsilon / correction
    w = (x_t - root_rest * noise) / root_a
    root_a, root_rest = process.previous_factors[t]
    return root_a * w + root_rest * noise


SAMPLERS: dict[str, Step] = {"ddpm": ddpm, "ddim": ddim}
"""Denoising steps by the value of ``diffusion.sampler``."""


def denoise(
    process: VanillaProcess,
    epsilon: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    noise: Tensor | None = None,
    until: int = 0,
    *,
    step: Step = ddpm,
    scaled_joins: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the sampling trajectory: (t (B,), x_t (B, D), ε_φ(x_t, t)) for t = T … until + 1, then (until, x_until, 0).

    Args:
        epsilon: (x_t (B, D), t (B,)) -> ε_φ (B, D).
        x_T: initial state (B, D).
        noise: (T, B or 1, D), added times the posterior's standard deviation; None for the paper's mean steps.
        until: time of the last state.
        step: ``ddpm`` or ``ddim``.
        scaled_joins: multiply the state that arrives at a recorded point w_i, 0 < i < n, by √ᾱ_{t|k} of the next
            sub-chain, the factor of w in its law at that time.
    """
    x_t, T = x_T, process.schedule.T
    joins = set(process.k.tolist()[1:-1]) if scaled_joins else set()
    times = torch.arange(T + 1, device=x_T.device)[:, None].repeat(1, len(x_T))
    for t in range(T, until, -1):
        e = epsilon(x_t, times[t])
        yield times[t], x_t, e
        x_t = step(process, x_t, e, t)
        if noise is not None:
            x_t = x_t + process.posterior_std[t] * noise[t - 1]
        if t - 1 in joins:
            x_t = process.target_factors[t - 1, 0] * x_t
    yield times[until], x_t, torch.zeros_like(x_t)
