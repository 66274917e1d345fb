"""Which points a state is trained toward, and that sampling reaches them."""

import pytest
import torch
from processes import LENGTH, D, normal, process_of
from torch.testing import assert_close

from ltdi.diffusion.process import LocalConsistencyProcess, NaiveLocalProcess, TrajectoryProcess, VanillaProcess
from ltdi.diffusion.sampler import ddpm as step
from ltdi.diffusion.sampler import denoise
from ltdi.diffusion.schedule import cosine, linear
from ltdi.utils.seeding import generator


def on_policy(process, ideal, x_T):
    return {int(t[0]): x_t for t, x_t, _ in denoise(process, ideal, x_T)}


def misses(process, w, ideal=None):
    """The largest distance of the chain from w_i at time k(i), for i = 0 … n - 1."""
    ideal = ideal or (lambda x_t, t: process.epsilon(w[process.target(t)], x_t, t, "weights"))
    x = on_policy(process, ideal, normal(7, D))
    return torch.stack([(x[int(k)] - w_i).norm(dim=-1).max() for k, w_i in zip(process.k[:-1], w)])


SCHEDULES = [(linear, 0.5), (linear, 0.999), (cosine, 0.999)]


@pytest.mark.parametrize(("make", "max_beta"), SCHEDULES)
def test_vanilla_hits_the_trained_head_and_misses_the_rest(make, max_beta):
    w_0, *between = misses(process_of(VanillaProcess, make, max_beta), normal(LENGTH, D))
    assert w_0 < 1e-9
    assert min(between) > 1


@pytest.mark.parametrize(("make", "max_beta"), SCHEDULES)
def test_the_trajectory_process_hits_every_point(make, max_beta):
    assert misses(process_of(TrajectoryProcess, make, max_beta), normal(LENGTH, D)).max() < 1e-9


@pytest.mark.parametrize("k", [[0, 1, 2, 20], [0, 10, 19, 20], [0, 3, 4, 20]])
def test_the_trajectory_process_hits_every_point_wherever_it_stands(k):
    assert misses(process_of(TrajectoryProcess, k=k), normal(LENGTH, D)).max() < 1e-9


@pytest.mark.parametrize(("make", "max_beta"), SCHEDULES)
def test_naive_local_targets_miss_the_points_between(make, max_beta):
    """They reach w_0, though: below k(1) the correction is 1, and the chain is DDPM's own."""
    w_0, *between = misses(process_of(NaiveLocalProcess, make, max_beta), normal(LENGTH, D))
    assert min(between) > 1e-4
    assert w_0 < 1e-9


@pytest.mark.parametrize(("make", "max_beta"), SCHEDULES)
def test_local_consistency_read_as_the_nearest_point_hits_every_point(make, max_beta):
    assert misses(process_of(LocalConsistencyProcess, make, max_beta), normal(LENGTH, D)).max() < 1e-9


def minimiser_of_local_consistency(process, w):
    """Its ideal as the drawn states see it: the mean target of the points below, each by its posterior at x_t."""

    def ideal(x_t, t):
        t = t[0]
        points = w[: int(process.target(t)) + 1]
        a = process.schedule.alpha_bar_given(t, process.k[: len(points)])[:, None, None]
        noise = (x_t - a.sqrt() * points[:, None]) / (1 - a).sqrt()
        log_density = -0.5 * noise.square().sum(-1) - D / 2 * (1 - a[..., 0]).log()
        # the loss is Σ (1 - a)·(ε_φ - correction·ε)²
        share = log_density.softmax(0)[..., None] * (1 - a)
        target = ((1 - process.schedule.alpha_bar[t]) / (1 - a)).sqrt() * noise
        return (share * target).sum(0) / share.sum(0)

    return ideal


def test_the_mean_target_is_the_minimiser_of_the_drawn_losses():
    """Points so close together that none has the posterior to itself; ε_φ = the ideal plus c has its least
    loss at c = 0."""
    process, w, t = process_of(LocalConsistencyProcess), 0.05 * normal(LENGTH, D), torch.tensor(18)
    ideal = minimiser_of_local_consistency(process, w)
    times = torch.full((60_000,), 18)
    i = process.draw_target(times, generator(0, "draws"))
    stream = generator(0, "noise")
    x_t = process.sample(w[i], times, i, torch.randn(len(i), D, generator=stream, dtype=torch.float64))
    best = ideal(x_t, t[None])
    direction = torch.stack([process.epsilon(w[2], x_t, times, "weights") - best, best])
    for d in direction:
        losses = [process.loss(best + c * d, x_t, times, i, w[i], "theorem").mean() for c in (-0.1, 0.0, 0.1)]
        assert losses[1] < min(losses[0], losses[2])
        # a parabola whose lowest point is where c = 0
        lowest = 0.05 * (losses[0] - losses[2]) / (losses[0] - 2 * losses[1] + losses[2])
        assert lowest.abs() < 0.02


@pytest.mark.parametrize(("make", "max_beta"), SCHEDULES)
def test_local_consistency_reaches_the_trained_head(make, max_beta):
    process, w = process_of(LocalConsistencyProcess, make, max_beta), normal(LENGTH, D)
    assert misses(process, w, minimiser_of_local_consistency(process, w))[0] < 1e-9


@pytest.mark.parametrize("i", [1, 2])
def test_local_consistency_leads_the_states_of_a_sub_chain_to_its_point(i):
    process, w = process_of(LocalConsistencyProcess), normal(LENGTH, D)
    k = int(process.k[i])
    for t in (k + 1, k + 2):
        times = torch.full((7,), t)
        x_t = process.sample(w[i], times, torch.full_like(times, i), normal(7, D))
        ideal = minimiser_of_local_consistency(process, w)
        for time in range(t, k, -1):
            x_t = step(process, x_t, ideal(x_t, torch.full_like(times, time)), time)
        # what is left is the posterior's share of the other points
        assert_close(x_t, w[i].expand(7, D), rtol=0, atol=1e-3)
