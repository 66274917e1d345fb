"""The sampler: equation 1, and the law of what it draws."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.diffusion.process import LocalConsistencyProcess, TrajectoryProcess, VanillaProcess, uniform_index_map
from ltdi.diffusion.sampler import SAMPLERS, ddim, denoise
from ltdi.diffusion.sampler import ddpm as step
from ltdi.diffusion.schedule import cosine, linear
from ltdi.utils.seeding import generator

MEAN, STD = 3.0, 0.4


def normal(*shape):
    return torch.randn(*shape, generator=generator(0, "sampler", shape))


def ideal_of_a_gaussian(process):
    """ε_φ for data of the law N(MEAN, STD²): x_t is N(√ᾱ·MEAN, ᾱ·STD² + 1 - ᾱ)."""

    def epsilon(x_t, t):
        a = process.schedule.alpha_bar[t][:, None]
        return (1 - a).sqrt() * (x_t - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)

    return epsilon


def end(process, x_T, noise):
    *_, (_, x_0, _) = denoise(process, ideal_of_a_gaussian(process), x_T, noise)
    return x_0


@pytest.mark.parametrize("make", [linear, cosine])
def test_it_draws_from_a_gaussian_that_is_not_the_unit_one(make):
    process = VanillaProcess(make(1000, 0.999), uniform_index_map(2, 1000))
    x_0 = end(process, normal(20_000, 1), normal(1000, 20_000, 1))
    # deviations of the estimates: 0.003 and 0.002
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x_0.std().item() == pytest.approx(STD, rel=0.03)


def test_more_steps_come_closer_to_the_law():
    errors = []
    for T in (20, 80, 320):
        process = VanillaProcess(linear(T, 0.999), uniform_index_map(2, T))
        errors.append(abs(end(process, normal(20_000, 1), normal(T, 20_000, 1)).std().item() - STD))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_without_noise_it_draws_too_narrow_a_law():
    process = VanillaProcess(linear(1000, 0.999), uniform_index_map(2, 1000))
    x_0 = end(process, normal(2000, 1), None)
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x_0.std() < 0.1 * STD


# --- single steps


@pytest.fixture
def process():
    return TrajectoryProcess(linear(20, 0.5), uniform_index_map(4, 20))


def test_a_step_is_the_posterior_mean_of_the_sub_chain(process):
    """Theorem 1: with its ε_φ, equation 1 is the mean of x_{t-1} given x_t and w_i, and ``posterior_std`` the
    deviation."""
    for t in range(1, 21):
        times = torch.tensor([t])
        k = process.k[process.target(times)]
        x_t, w = normal(2, 1, 5)
        alpha = process.schedule.alpha[t]
        before, now = process.schedule.alpha_bar_given(times - 1, k), process.schedule.alpha_bar_given(times, k)
        # product of N(x_t; √α·x, 1 - α) and N(x; √ᾱ_{t-1|k}·w, 1 - ᾱ_{t-1|k}), normalised
        mean = (alpha.sqrt() * (1 - before) * x_t + before.sqrt() * (1 - alpha) * w) / (1 - now)
        epsilon = process.epsilon(w, x_t, times, "weights")
        assert_close(step(process, x_t, epsilon, t), mean, rtol=1e-4, atol=1e-5)
        if t - 1 > k:
            variance = 1 / (alpha / (1 - alpha) + 1 / (1 - before))
            assert_close(process.posterior_std[times], variance.sqrt(), rtol=1e-4, atol=1e-5)
        else:
            assert process.posterior_std[t] == 0


def test_local_consistency_walks_as_the_trajectory_process(process):
    other = LocalConsistencyProcess(process.schedule, process.k)
    assert all(other.posterior_std[t].equal(process.posterior_std[t]) for t in range(1, 21))


# --- the chain


def test_the_chain_yields_what_it_visits(process):
    x_T, noise = normal(3, 5), normal(20, 3, 5)
    calls = []

    def epsilon(x_t, t):
        calls.append((t, x_t))
        return 0.1 * x_t + t[:, None] / 100

    on_policy = list(denoise(process, epsilon, x_T, noise))
    assert [t.tolist() for t, _, _ in on_policy] == [[t] * 3 for t in range(20, -1, -1)]
    assert on_policy[0][1].equal(x_T)
    assert len(calls) == 20
    for (t, x_t, e), (_, x_next, _) in zip(on_policy, on_policy[1:]):
        t = int(t[0])
        assert e.equal(0.1 * x_t + t / 100)
        assert_close(x_next, step(process, x_t, e, t) + process.posterior_std[t] * noise[t - 1])


def test_no_noise_is_noise_of_zero_and_one_noise_is_all_rows(process):
    x_T, noise = normal(3, 5), normal(20, 1, 5)

    def last(noise):
        *_, (_, x_0, _) = denoise(process, lambda x_t, t: 0.3 * x_t, x_T, noise)
        return x_0

    assert_close(last(None), last(torch.zeros(20, 3, 5)))
    assert_close(last(noise), last(noise.expand(20, 3, 5)))
    assert not last(noise).allclose(last(None))


def test_gradients_run_through_the_chain(process):
    scale = torch.tensor(0.3, requires_grad=True)
    *_, (_, x_0, _) = denoise(process, lambda x_t, t: scale * x_t, normal(3, 5))
    x_0.square().sum().backward()
    assert scale.grad.isfinite() and scale.grad != 0


@pytest.mark.parametrize("until", [0, 1, 7, 19, 20])
def test_a_chain_that_is_left_early_has_gone_the_same_way(process, until):
    x_T, noise = normal(3, 5), normal(20, 3, 5)

    def states(**given):
        return list(denoise(process, lambda x_t, t: 0.3 * x_t, x_T, noise, **given))

    part, whole = states(until=until), states()[: 21 - until]
    assert [t.tolist() for t, _, _ in part] == [t.tolist() for t, _, _ in whole]
    assert_close([x_t for _, x_t, _ in part], [x_t for _, x_t, _ in whole], rtol=0, atol=0)
    assert not part[-1][2].any()


# --- DDIM and the joins


POINTS = normal(4, 1, 5)


def pointing(process):
    """ε_φ that points exactly at the recorded point of each sub-chain."""

    def epsilon(x_t, t):
        w = POINTS[process.target(t)].squeeze(1)
        return process.epsilon(w, x_t, t, "weights")

    return epsilon


@pytest.mark.parametrize("make", [linear, cosine])
def test_ddim_stays_in_the_law_of_its_sub_chain(make):
    """With the noise that x_T is: x_t = √ᾱ_t·w + √(1 − ᾱ_t)·ε at every t."""
    process = VanillaProcess(make(20, 0.5, 0.005), uniform_index_map(2, 20))
    noise, w = normal(1, 5), POINTS[0]
    x_T = process.schedule.alpha_bar[20].sqrt() * w + (1 - process.schedule.alpha_bar[20]).sqrt() * noise
    for t, x_t, _ in denoise(process, pointing(process), x_T, step=ddim):
        a = process.schedule.alpha_bar[t][:, None]
        assert_close(x_t, a.sqrt() * w + (1 - a).sqrt() * noise, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chain_that_is_pointed_at_every_point_meets_every_point(process, name):
    states = {int(t): x for t, x, _ in denoise(process, pointing(process), normal(1, 5), step=SAMPLERS[name])}
    for i in (0, 1, 2):
        assert_close(states[int(process.k[i])], POINTS[i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_scaled_join_is_the_mean_of_the_next_sub_chains_law(process, name):
    states = denoise(process, pointing(process), normal(1, 5), step=SAMPLERS[name], scaled_joins=True)
    states = {int(t): x for t, x, _ in states}
    for i in (1, 2):
        k, below = process.k[i], process.k[i - 1]
        a = process.schedule.alpha_bar_given(k, below)
        assert_close(states[int(k)], a.sqrt() * POINTS[i], rtol=1e-3, atol=1e-4)
    assert_close(states[0], POINTS[0], rtol=1e-3, atol=1e-4)
