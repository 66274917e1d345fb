"""Schedules: from no noise at t = 0 to nothing but noise at t = T."""

import math

import pytest
import torch
from torch.testing import assert_close

from ltdi.diffusion.schedule import SCHEDULES, Schedule, cosine, linear

MAX_BETA = 0.999


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES)
def make(request):
    return request.param


@pytest.mark.parametrize("T", [4, 20, 1000])
def test_it_goes_from_the_trained_head_to_noise(make, T):
    schedule = make(T, MAX_BETA)
    assert schedule.T == T
    assert schedule.alpha[0] == 1 and schedule.alpha_bar[0] == 1
    assert 0 < schedule.alpha_bar[T] < 1e-3
    assert (schedule.alpha_bar.diff() < 0).all()
    assert ((schedule.alpha[1:] > 0) & (schedule.alpha[1:] < 1)).all()


@pytest.mark.parametrize("T", [4, 20, 1000])
def test_the_largest_beta_bounds_every_step(make, T):
    beta = 1 - make(T, 0.5).alpha
    assert beta.max() <= 0.5
    below = 1 - make(T, MAX_BETA).alpha < 0.5
    assert_close(beta[below], 1 - make(T, MAX_BETA).alpha[below])


def test_without_rescaling_twenty_steps_would_leave_the_signal():
    unscaled = Schedule(1 - torch.cat([torch.zeros(1), torch.linspace(1e-4, 0.02, 20)]))
    assert unscaled.alpha_bar[20].item() == pytest.approx(0.81, abs=0.01)
    assert linear(20, MAX_BETA).alpha_bar[20] < 1e-3


def test_linear_is_ddpms_at_a_thousand_steps():
    beta = 1 - linear(1000, MAX_BETA).alpha[1:].double()
    assert_close(beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("T", [50, 200])
def test_linear_loses_as_much_as_ddpm_whatever_the_steps(T):
    # Σβ is what log ᾱ is, to first order
    beta = 1 - linear(T, MAX_BETA).alpha
    assert beta.sum().item() == pytest.approx(1000 * (1e-4 + 0.02) / 2, rel=1e-3)


def test_cosine_is_its_formula():
    T, s = 1000, 0.008
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T)]
    assert_close(cosine(T, MAX_BETA).alpha_bar[:T], torch.tensor([value / f[0] for value in f]), rtol=1e-3, atol=1e-6)


def test_a_sub_chain_decays_by_the_steps_between(make):
    schedule = make(20, MAX_BETA)
    for k in (0, 3, 7):
        t = torch.arange(k, 15)
        expected = torch.stack([schedule.alpha[k + 1 : int(end) + 1].prod() for end in t])
        assert_close(schedule.alpha_bar_given(t, torch.full_like(t, k)), expected)
    every = torch.arange(21)
    assert_close(schedule.alpha_bar_given(every, torch.zeros_like(every)), schedule.alpha_bar)
    assert_close(schedule.alpha_bar_given(every[1:], every[:-1]), schedule.alpha[1:])


@pytest.mark.parametrize("least", [0.001, 0.005, 0.1])
def test_a_least_alpha_bar_is_where_the_schedule_ends(make, least):
    """An ε-network that says zero is then off by 1/√ᾱ_T of the noise at most."""
    schedule = make(20, MAX_BETA, least)
    assert schedule.alpha_bar[20].item() == pytest.approx(least, abs=2e-4)
    assert (schedule.alpha_bar.diff() < 0).all() and schedule.alpha_bar[0] == 1
