"""Reverse diffusion: from x_T to x_0, by the mean of DDPM (equation 1)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ltdi.diffusion.process import VanillaProcess


def step(process: VanillaProcess, x_t: Tensor, epsilon: Tensor, t: int) -> Tensor:
    """x_{t−1} = (x_t − (1 − α_t)/√(1 − ᾱ_t)·ε_φ)/√α_t (equation 1)."""
    alpha, alpha_bar = process.schedule.alpha[t], process.schedule.alpha_bar[t]
    return (x_t - (1 - alpha) / (1 - alpha_bar).sqrt() * epsilon) / alpha.sqrt()


def posterior_std(process: VanillaProcess, t: int) -> Tensor:
    """The deviation of x_{t−1} in its sub-chain: 0 on arrival at its end, t = k + 1."""
    times = torch.tensor([t], device=process.k.device)
    k = process.k[process.target(times)]
    before, now = process.schedule.alpha_bar_given(times - 1, k), process.schedule.alpha_bar_given(times, k)
    return ((1 - process.schedule.alpha[t]) * (1 - before) / (1 - now)).sqrt()


def chain(
    process: VanillaProcess,
    epsilon: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    noise: Tensor | None = None,
    until: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The states that the sampler visits: yields (t (B,), x_t (B, D), ε_φ(x_t, t)) for t = T … until + 1, then (until,
    x_until, 0).

    ``epsilon(x_t, t)`` is ε_φ. ``noise`` (T, B or 1, D) is added times the posterior's deviation; the paper adds none.
    """
    x_t = x_T

    def times_at(t: int) -> Tensor:
        return torch.full((len(x_t),), t, device=x_t.device)

    for t in range(process.schedule.T, until, -1):
        times = times_at(t)
        e = epsilon(x_t, times)
        yield times, x_t, e
        x_t = step(process, x_t, e, t)
        if noise is not None:
            x_t = x_t + posterior_std(process, t) * noise[t - 1]
    yield times_at(until), x_t, torch.zeros_like(x_t)
