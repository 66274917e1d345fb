"""Reverse diffusion: from x_T to x_0, by the mean of DDPM (equation 1)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ltdi.diffusion.process import VanillaProcess


def step(process: VanillaProcess, x_t: Tensor, epsilon: Tensor, t: int) -> Tensor:
    """x_{t−1} = (x_t − (1 − α_t)/√(1 − ᾱ_t)·ε_φ)/√α_t (equation 1)."""
    return (x_t - process.schedule.taken[t] * epsilon) / process.schedule.root_alpha[t]


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
    x_t, T = x_T, process.schedule.T
    times = torch.arange(T + 1, device=x_T.device)[:, None].repeat(1, len(x_T))
    for t in range(T, until, -1):
        e = epsilon(x_t, times[t])
        yield times[t], x_t, e
        x_t = step(process, x_t, e, t)
        if noise is not None:
            x_t = x_t + process.posterior_std[t] * noise[t - 1]
    yield times[until], x_t, torch.zeros_like(x_t)
