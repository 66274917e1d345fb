"""OCD: a difference as directions of unit size with their log-scales, and what each of its two networks learns."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds import PAPER, World, draw, stirred

from ltdi.tasks.base import Task
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training


@pytest.fixture(scope="module")
def worlds():
    return {kind: World(kind) for kind in ("prototype", "shared", "fresh")}


@pytest.fixture(scope="module")
def world(worlds):
    return worlds["prototype"]


def a_task(world, n=6):
    return world.train.batch(torch.arange(n)), world.points[:n]


def loss_of(method, task, points):
    return method.loss(task, points, generator(0, "loss"))


class Knowing(nn.Module):
    """In the place of the denoiser: it knows x_0 and says it, or the noise between it and x_t."""

    def __init__(self, process, x_0, prediction):
        super().__init__()
        self.process, self.x_0, self.prediction = process, x_0, prediction

    def forward(self, x, t, rows, present):
        if self.prediction == "weights":
            return self.x_0
        a = self.process.schedule.alpha_bar[t][:, None]
        return (x[:, 0] - a.sqrt() * self.x_0) / (1 - a).sqrt()


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, rows, present):
        return self.value


def make_perfect(method, task, points):
    """The method with networks that know the trained heads of these tasks."""
    base = method.initialization.centre(task.context)
    x_0, log_scale = method.normalise(points[:, 0] - base)
    method.denoiser = Knowing(method.process, x_0, method.diffusion.prediction)
    method.scale_network = Constant(log_scale - method.mean_log_scale)
    return method


# --- a difference and its parts


def test_base_plus_scale_times_direction_is_the_trained_head(world):
    method, (task, points) = world.prepared("ocd"), a_task(world)
    base = method.initialization.centre(task.context)
    x_0, log_scale = method.normalise(points[:, 0] - base)
    assert_close(base + method.spread(log_scale, base.shape[-1]) * x_0, points[:, 0])
    assert not torch.allclose(points[:, 0], base, atol=1e-2)


def test_every_layer_of_every_task_has_its_own_scale(world):
    method = world.prepared("ocd")
    x = torch.randn(5, method.space.dim(3), generator=generator(0, "x"))
    x, _ = method.normalise(x)
    for part in method.space.tokens(x).values():
        assert_close(part.square().mean((1, 2)), torch.ones(5))
    wanted = torch.randn(5, 2, generator=generator(0, "scales"))
    tokens = method.space.tokens(x)
    difference = method.space.from_tokens(
        {layer: wanted[:, j].exp()[:, None, None] * part for j, (layer, part) in enumerate(tokens.items())}
    )
    direction, log_scale = method.normalise(difference)
    assert_close(log_scale, wanted)
    assert_close(direction, x)


def test_the_scale_before_training_is_the_mean_log_scale(world):
    method = world.prepared("ocd")
    base = world.initialization.centre(world.train.context(torch.arange(len(world.train))))
    _, log_scale = method.normalise(world.points[:, 0] - base)
    assert_close(method.predict_log_scale(world.context), log_scale.mean(0).expand(len(world.context), -1))


@pytest.mark.parametrize("kind", ["prototype", "shared"])
def test_untrained_it_generates_the_base(kind, worlds):
    w = draw(worlds[kind].prepared("ocd"), worlds[kind].context)
    assert_close(w, worlds[kind].initialization.centre(worlds[kind].context).expand_as(w))


# --- generation and loss, against networks that know the answer


@pytest.mark.parametrize("kind", ["prototype", "shared", "fresh"])
@pytest.mark.parametrize("diffusion", [{}, PAPER | {"steps": 20}], ids=["ours", "paper"])
def test_perfect_networks_generate_the_trained_head(kind, diffusion, worlds):
    task, points = a_task(worlds[kind])
    method = make_perfect(worlds[kind].prepared("ocd", diffusion=diffusion), task, points)
    assert_close(draw(method, task.context), points[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weighting", ["weights", "theorem"])
def test_perfect_networks_have_no_weight_loss(weighting, world):
    task, points = a_task(world)
    diffusion = {"on_policy": 0.5, "weighting": weighting}
    method = make_perfect(world.prepared("ocd", diffusion=diffusion, meta={"query_loss": 0.0}), task, points)
    assert loss_of(method, task, points).abs().max() < 1e-6
    log_scale = method.scale_network.value
    method.scale_network = Constant(log_scale + torch.tensor([0.5, 0.0]))
    assert_close(loss_of(method, task, points), torch.full((6,), 0.5**2 / 2))
    method.scale_network = Constant(log_scale)
    method.denoiser.x_0 = method.denoiser.x_0 + 1
    assert (loss_of(method, task, points) > 0.1).all()


def test_the_query_loss_is_that_of_the_generated_head(world):
    """With a denoiser that says the same x_0 everywhere, every state of the chain points at the generated head."""
    task, points = a_task(world)
    method = make_perfect(world.prepared("ocd", meta={"weight_loss": 0.0, "query_loss": 2.0}), task, points)
    logits = method.learner.logits(draw(method, task.context), task.query["inputs"])
    labels = torch.arange(3).repeat_interleave(5).expand(6, -1)
    wanted = 2 * nn.functional.cross_entropy(logits.mT, labels, reduction="none").mean(1)
    assert_close(loss_of(method, task, None), wanted, rtol=1e-3, atol=1e-4)


def test_recorded_tasks_count_in_the_weight_loss_as_well_and_new_ones_in_the_query_loss_alone(world):
    task, points = a_task(world)

    def losses(weight_loss, query_loss):
        method = stirred(world.prepared("ocd", meta={"weight_loss": weight_loss, "query_loss": query_loss}))
        return loss_of(method, task, points).detach(), loss_of(method, task, None).detach()

    (weight, nothing), (query, of_new) = losses(1.0, 0.0), losses(0.0, 1.0)
    assert (weight > 0).all() and (query > 0).all() and (of_new > 0).all() and not nothing.any()
    for one, other in zip(losses(0.5, 2.0), (0.5 * weight + 2 * query, 2 * of_new)):
        assert_close(one, other)


# --- learning


@pytest.mark.parametrize("diffusion", [{}, PAPER], ids=["ours", "paper"])
def test_the_query_loss_reaches_both_networks_and_the_condition(diffusion, world):
    method, (task, _) = stirred(world.prepared("ocd", diffusion=diffusion, meta={"weight_loss": 0.0})), a_task(world)
    rows = task.context.rows.clone().requires_grad_()
    # the base depends on the context as well: leave only what goes through the two networks
    base = world.initialization.centre(task.context)
    method.initialization = SimpleNamespace(learner=world.head, centre=lambda context: base)
    loss_of(method, Task(context_of(rows), task.query), None).sum().backward()
    for network in (method.denoiser, method.scale_network):
        assert [
            name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
        ] == []
    assert (rows.grad.abs().sum((1, 2, 3)) > 0).all()


def test_the_visited_state_is_one_of_the_generations_and_given(world):
    """Every one of them in some step, without a gradient that runs back to it."""
    task, points = a_task(world)
    method = stirred(world.prepared("ocd", diffusion={"start_noise": 0.0}, meta={"query_loss": 1.0}))
    seen = []
    method.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append((int(inputs[1][0]), inputs[0][:, 0])))
    draw(method, task.context)
    states, visits = dict(seen), set()
    for seed in range(20):
        seen.clear()
        method.loss(task, points, generator(seed, "loss"))
        t, x_t = seen[-1]
        assert_close(x_t, states[t])
        assert not x_t.requires_grad
        visits.add(t)
    assert visits == {1, 2, 3, 4}


def test_the_scale_network_learns_a_function_of_the_condition(world):
    """The trained heads' distance from the base is made to hang on one feature: what an unseen context says of it is
    found."""

    def wanted(context):
        level = context.rows[..., 0].mean((1, 2))
        return torch.stack([level, -2 * level], -1)

    # a step sees 40 tasks of the same 12 classes with other images
    method = world.build("ocd", diffusion={"steps": 1}, meta={"query_loss": 0.0}, own={"scale_width": 32})
    training = Training(method, lr=1e-2, steps=100, ema=0.9)
    direction, _ = method.normalise(torch.ones(40, method.space.dim(3)))
    for step in range(training.steps):
        task = world.train.new(world.train.classes, generator(0, "images", step))
        trained = (
            world.initialization.centre(task.context)
            + method.spread(wanted(task.context), direction.shape[-1]) * direction
        )
        method.loss(task, trained[:, None], generator(0, "loss", step)).mean().backward()
        training.descend()
    context = world.train.new(world.train.classes, generator(1, "unseen images")).context
    error = (method.predict_log_scale(context) - wanted(context)).square().mean(0)
    assert (error < 0.1 * wanted(context).var(0)).all()


@pytest.mark.parametrize(
    "kind, diffusion, denoiser", [("shared", {}, "transformer"), ("fresh", PAPER, "unet")], ids=["ours", "paper"]
)
def test_the_loss_falls(kind, diffusion, denoiser, worlds):
    method = worlds[kind].prepared("ocd", diffusion=diffusion, denoiser={"name": denoiser}, meta={"recorded_tasks": 40})
    losses = [row["loss"] for row in worlds[kind].rows(method, Training(method, lr=1e-2, steps=40, ema=0.9))]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_noised_states_are_of_the_direction(world):
    """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε, whatever the size of the difference: half the change that its sign makes is
    √ᾱ_t·x_0."""
    task, points = a_task(world)
    method = world.prepared("ocd", diffusion=PAPER, meta={"query_loss": 0.0})
    seen = []
    method.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0][:, 0], inputs[1])))
    base = world.initialization.centre(task.context)
    difference = points[:, 0] - base
    for factor in (1, 1000, -1):
        loss_of(method, task, (base + factor * difference)[:, None])
    (x_t, t), (of_larger, _), (of_negative, _) = seen
    assert_close(of_larger, x_t, rtol=1e-3, atol=1e-3)
    signal = method.process.schedule.alpha_bar[t].sqrt()[:, None] * method.normalise(difference)[0]
    assert_close((x_t - of_negative) / 2, signal, rtol=1e-3, atol=1e-3)
    assert_close((x_t - signal).square().mean(1), 1 - method.process.schedule.alpha_bar[t], rtol=0.3, atol=0)


def test_noised_and_visited_states_have_their_shares(world):
    """With one step a chain visits one state, whatever is drawn."""
    task, points = a_task(world)
    noised, on_policy, mixed = (
        loss_of(stirred(world.prepared("ocd", diffusion={"steps": 1, "on_policy": share})), task, points)
        for share in (0.0, 1.0, 0.25)
    )
    assert_close(mixed, 0.75 * noised + 0.25 * on_policy)
    assert not torch.allclose(noised, on_policy, rtol=1e-2)


@pytest.mark.parametrize("hparam", ["start_noise", "chain_noise"])
def test_noise_enters_where_it_is_asked_for(hparam, world):
    def changes(amount):
        method = stirred(world.prepared("ocd", diffusion={"start_noise": 0.0, "chain_noise": 0.0, hparam: amount}))
        return (draw(method, world.context, seed=0) - draw(method, world.context, seed=1)).abs().max()

    assert changes(0.0) == 0
    assert changes(1.0) > 1e-3
