"""The processes: Theorem 1 in closed form, and what their losses and predictions are."""

import pytest
import torch
from processes import LENGTH, D, T, normal, process_of
from torch.testing import assert_close

from ltdi.diffusion.process import (
    LocalConsistencyProcess,
    NaiveLocalProcess,
    TrajectoryProcess,
    VanillaProcess,
    uniform_index_map,
)
from ltdi.diffusion.sampler import ddpm as step
from ltdi.diffusion.schedule import cosine
from ltdi.utils.seeding import generator

PROCESSES = [VanillaProcess, TrajectoryProcess, LocalConsistencyProcess, NaiveLocalProcess]


def states(process, i=None):
    """Every time 1 … T and the index i (drawn below it if not given), with x_t, w_i and ε."""
    t = torch.arange(1, T + 1)
    i = process.target(t) if i is None else i
    w, noise = normal(T, D), normal(1, T, D)[0]
    return t, i, process.sample(w, t, i, noise), w, noise


def test_the_index_map_is_uniform():
    assert uniform_index_map(5, 20).tolist() == [0, 5, 10, 15, 20]
    assert uniform_index_map(2, 1000).tolist() == [0, 1000]


def test_the_index_map_is_rounded_where_the_segments_do_not_divide_the_steps():
    assert uniform_index_map(4, 20).tolist() == [0, 7, 13, 20]


@pytest.mark.parametrize("length", range(2, 12))
def test_no_two_points_share_a_time(length):
    for steps in range(length - 1, 40):
        k = uniform_index_map(length, steps)
        assert k[0] == 0 and k[-1] == steps
        assert (k.diff() > 0).all()
        assert (k - torch.arange(length) * steps / (length - 1)).abs().max() <= 0.5


def test_fewer_steps_than_segments_are_refused():
    with pytest.raises(ValueError, match=r"T = 2 .* 3 segments"):
        uniform_index_map(4, 2)


def test_vanilla_moves_toward_the_trained_head():
    assert not process_of(VanillaProcess).target(torch.arange(1, T + 1)).any()


@pytest.mark.parametrize("kind", [TrajectoryProcess, LocalConsistencyProcess, NaiveLocalProcess])
def test_the_nearest_point_below(kind):
    t = torch.arange(1, T + 1)
    assert process_of(kind).target(t).tolist() == [0] * 7 + [1] * 6 + [2] * 7


@pytest.mark.parametrize("kind", [VanillaProcess, TrajectoryProcess, NaiveLocalProcess])
def test_the_trained_target_is_the_one_of_sampling(kind):
    t = torch.arange(1, T + 1)
    assert process_of(kind).draw_target(t, generator(0)).equal(process_of(kind).target(t))


def test_local_consistency_draws_every_point_below_equally_often():
    process = process_of(LocalConsistencyProcess)
    t = torch.arange(1, T + 1).repeat_interleave(2000)
    i = process.draw_target(t, generator(0, "draws"))
    assert (process.k[i] < t).all()
    for time in (1, 7, 8, 13, 14, 20):
        counts = i[t == time].bincount(minlength=LENGTH)
        below = int((process.k < time).sum())
        # each is binomial(2000, 1/below), with a deviation of at most 23
        assert (counts[:below] - 2000 / below).abs().max() < 100
        assert not counts[below:].any()


def test_one_segment_makes_every_process_vanilla():
    for kind in PROCESSES:
        process = process_of(kind, k=[0, T])
        t = torch.arange(1, T + 1)
        assert not process.target(t).any() and not process.draw_target(t, generator(0)).any()
        output, (t, i, x_t, w, _) = normal(2, T, D)[0], states(process)
        vanilla = process_of(VanillaProcess)
        assert_close(process.epsilon(output, x_t, t, "v"), vanilla.epsilon(output, x_t, t, "v"))
        assert_close(process.loss(output, x_t, t, i, w, "theorem"), vanilla.loss(output, x_t, t, i, w, "theorem"))


def test_the_forward_law_is_that_of_single_noising_steps():
    process = process_of(TrajectoryProcess)
    for i, t in ((0, 6), (1, 12), (2, 20)):
        k = int(process.k[i])
        # mean and variance through x_s = √α_s·x_{s-1} + √(1 - α_s)·ε_s, s = k + 1 … t
        mean, variance = 1.0, 0.0
        for alpha in process.schedule.alpha[k + 1 : t + 1].tolist():
            mean, variance = alpha**0.5 * mean, alpha * variance + 1 - alpha
        at = torch.tensor([t]), torch.tensor([i])
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        assert process.sample(one, *at, zero).item() == pytest.approx(mean)
        assert process.sample(zero, *at, one).item() == pytest.approx(variance**0.5)


def test_without_a_shift_the_loss_is_ddpms():
    process = process_of(VanillaProcess)
    t, i, x_t, w, noise = states(process)
    output = normal(2, T, D)[0]
    ddpm = (output - noise).square().mean(-1)
    assert_close(process.loss(output, x_t, t, i, w, "theorem"), (1 - process.schedule.alpha_bar[t]) * ddpm)


@pytest.mark.parametrize("kind", [TrajectoryProcess, LocalConsistencyProcess])
def test_the_loss_is_theorem_1s(kind):
    process = process_of(kind)
    for i in range(LENGTH - 1):
        t = torch.arange(int(process.k[i]) + 1, T + 1)
        i = torch.full_like(t, i)
        w, noise, output = normal(3, len(t), D)
        x_t = process.sample(w, t, i, noise)
        given = (process.schedule.alpha_bar[t] / process.schedule.alpha_bar[process.k[i]])[:, None]
        now = process.schedule.alpha_bar[t][:, None]
        expected = ((1 - given).sqrt() * output - (1 - now).sqrt() * noise).square().mean(-1)
        assert_close(process.loss(output, x_t, t, i, w, "theorem"), expected)


def test_the_naive_loss_leaves_the_correction_out():
    process = process_of(NaiveLocalProcess)
    t, i, x_t, w, noise = states(process)
    given = process.schedule.alpha_bar_given(t, process.k[i])
    assert_close(process.loss(noise, x_t, t, i, w, "theorem"), torch.zeros(T, dtype=torch.float64))
    assert_close(process.loss(noise + 1, x_t, t, i, w, "theorem"), 1 - given)


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("weighting", ["theorem", "weights"])
def test_the_loss_is_zero_where_epsilon_points_at_the_target_and_only_there(kind, weighting):
    process = process_of(kind)
    t, i, x_t, w, _ = states(process)
    ideal = process.epsilon(w, x_t, t, "weights")
    assert process.loss(ideal, x_t, t, i, w, weighting).abs().max() < 1e-20
    assert (process.loss(ideal + 0.1, x_t, t, i, w, weighting) > 1e-6).all()


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_weightings_are_proportional_at_each_time(kind):
    process = process_of(kind)
    t, i, x_t, w, _ = states(process)
    ratios = [
        process.loss(output, x_t, t, i, w, "weights") / process.loss(output, x_t, t, i, w, "theorem")
        for output in normal(4, T, D)
    ]
    for ratio in ratios[1:]:
        assert_close(ratio, ratios[0])
    given, now = process.schedule.alpha_bar_given(t, process.k[i]), process.schedule.alpha_bar[t]
    correction = (1 - now) / (1 - given) if kind is not NaiveLocalProcess else 1
    assert_close(ratios[0], 1 / (given * correction))


def test_the_weights_loss_is_a_distance_of_weights():
    process = process_of(TrajectoryProcess)
    t, i, x_t, w, _ = states(process)
    epsilon = process.epsilon(w + 0.3, x_t, t, "weights")
    assert_close(process.loss(epsilon, x_t, t, i, w, "weights"), torch.full((T,), 0.09, dtype=torch.float64))


@pytest.mark.parametrize("kind", PROCESSES)
def test_endpoint_inverts_epsilon(kind):
    process = process_of(kind)
    t, i, x_t, _, _ = states(process)
    w, epsilon = normal(2, T, D)
    assert_close(process.endpoint(process.epsilon(w, x_t, t, "weights"), x_t, t, i), w)
    assert_close(process.epsilon(process.endpoint(epsilon, x_t, t, i), x_t, t, "weights"), epsilon)


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_four_predictions_say_the_same(kind):
    process = process_of(kind)
    t, i, x_t, w, noise = states(process)
    a = process.schedule.alpha_bar_given(t, process.k[i])[:, None]
    velocity = a.sqrt() * noise - (1 - a).sqrt() * w
    from_weights = process.epsilon(w, x_t, t, "weights")
    assert_close(process.epsilon(velocity, x_t, t, "v"), from_weights)
    assert_close(process.epsilon(w - x_t, x_t, t, "residual"), from_weights)
    assert_close(process.epsilon(from_weights, x_t, t, "epsilon"), from_weights)
    if kind is VanillaProcess:
        assert_close(from_weights, noise)


def test_a_step_of_the_whole_segment_adds_the_difference():
    """With one step a segment the chain is Euler's along the trajectory: the weight flow's."""
    process = process_of(TrajectoryProcess, k=range(T + 1))
    x_t, output = normal(2, 5, D)
    for t in range(1, T + 1):
        epsilon = process.epsilon(output, x_t, torch.full((5,), t), "residual")
        assert_close(step(process, x_t, epsilon, t), x_t + output)


def test_constants_move_with_the_process():
    for kind in PROCESSES:
        process = process_of(kind)
        assert {"k", "point_factors", "schedule.alpha", "schedule.epsilon_factor"} < dict(
            process.named_buffers()
        ).keys()
        assert process.state_dict() == {}  # they are made again from the hyperparameters
        assert all(each.is_meta for each in process.to("meta").buffers())


@pytest.mark.parametrize("prediction", ["epsilon", "weights", "residual", "v"])
@pytest.mark.parametrize("kind", [VanillaProcess, TrajectoryProcess])
def test_the_linear_guess_is_the_least_squares_one(kind, prediction):
    """In every form it is the regression of the predicted number on x_t, for weights and noise of variance 1."""
    process = kind(cosine(20, 0.999, 0.005), kind.index_map(4, 20))
    w, noise = torch.randn(2, 200_000, generator=generator(0, "linear guess"))
    guess = process.linear_estimate(prediction)
    for t in (1, 7, 20):
        root_a, root_rest, correction = process.target_factors[t]
        x_t = root_a * w + root_rest * noise
        v = root_a * noise - root_rest * w
        truth = {"epsilon": correction * noise, "weights": w, "residual": w - x_t, "v": v}[prediction]
        assert guess[t].item() == pytest.approx(((truth * x_t).mean() / x_t.square().mean()).item(), abs=0.01)
