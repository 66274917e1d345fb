"""REPTILE for the head: its special cases and fixed points, the images of its inner loop; then that it learns."""

import math
from itertools import islice

import pytest
import torch
from torch.testing import assert_close
from worlds import N_QUERY, N_SHOT, N_WAY, F, World, draw

from ltdi.tasks.class_tasks import Classes, ClassTasks, context_of, labelled
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

ALL = N_SHOT + N_QUERY


@pytest.fixture(scope="module")
def worlds():
    return {kind: World(kind) for kind in ("prototype", "shared", "fresh")}


class Recorder:
    """In the place of ``Training``, for one step: keeps the gradient that it is given."""

    step, steps = 0, 1

    def __init__(self, method):
        self.method = method

    def descend(self):
        self.gradient = self.method.phi.grad.clone()
        self.step = 1


def pseudo_gradient(world, method, source=None):
    recorder = Recorder(method)
    (row,) = method.meta_train(recorder, source or world.train, world.trajectories, seed=0)
    return recorder.gradient, row["loss"]


def images_of(world, method):
    """Those of the first step (B, N, train_shots, F)."""
    stream = generator(0, "meta", 0)
    classes = world.train.draw(method.tasks_a_batch, stream)
    return world.train.new(classes, stream, n_shot=method.train_shots).context.rows


def moved(method, size):
    with torch.no_grad():
        method.phi += size * torch.randn(method.phi.shape, generator=generator(0, "moved"))
    return method


@pytest.mark.parametrize("kind", ["prototype", "shared", "fresh"])
def test_one_step_of_sgd_is_joint_training(kind, worlds):
    """φ − mean φ_i = rate × the gradient of the tasks' mean loss, all images of a class in one batch."""
    world = worlds[kind]
    own = {"inner_steps": 1, "inner_optimizer": "sgd", "inner_lr": 0.3, "train_shots": ALL, "inner_images": ALL}
    method = moved(world.prepared("reptile_head", own=own), 0.1)
    gradient, _ = pseudo_gradient(world, method)

    images = images_of(world, method)
    centre = method.initialization.centre(context_of(images[:, :, :N_SHOT]))
    phi = method.phi.detach().requires_grad_()
    (joint,) = torch.autograd.grad(world.head.loss(centre + phi, labelled(images)).mean(), phi)
    assert_close(gradient, 0.3 * joint, rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_the_pseudo_gradient_of_many_steps_leads_to_the_mean_of_the_adapted(worlds):
    """Two steps by hand."""
    world = worlds["shared"]
    own = {"inner_steps": 2, "inner_optimizer": "sgd", "inner_lr": 0.3, "train_shots": ALL, "inner_images": ALL}
    method = world.prepared("reptile_head", own=own)
    gradient, loss = pseudo_gradient(world, method)

    images = images_of(world, method)
    w = method.initial_weights(context_of(images))
    for _ in range(2):
        w = w.detach().requires_grad_()
        (g,) = torch.autograd.grad(world.head.loss(w, labelled(images)).sum(), w)
        w = w - 0.3 * g
    assert_close(gradient, method.initialization.shared - w.detach().mean(0), rtol=1e-4, atol=1e-6)
    assert_close(loss, world.head.loss(w, labelled(images)).mean())


def test_no_step_returns_the_initialisation(worlds):
    for world in worlds.values():
        method = moved(world.prepared("reptile_head", own={"adapt_steps": 0}), 0.1)
        assert_close(
            draw(method, world.context),
            method.initialization.centre(world.context) + method.phi.detach(),
            rtol=0,
            atol=0,
        )


def test_it_begins_at_the_start_or_at_the_shared_draw(worlds):
    for kind, world in worlds.items():
        w = draw(world.prepared("reptile_head", own={"adapt_steps": 0}), world.context)
        assert_close(
            w,
            world.initialization.shared.expand_as(w)
            if kind != "prototype"
            else world.initialization.centre(world.context),
            rtol=0,
            atol=0,
        )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_tasks_without_information_lead_to_equal_logits(optimizer, worlds):
    """All features are zero: the loss is least, ln N, where the output biases agree; REPTILE gets there from unequal
    ones and stays."""
    world = worlds["shared"]
    classes = Classes(torch.zeros_like(world.train.of.features), world.train.of.counts)
    empty = ClassTasks(classes, world.train.classes, world.train.support, world.train.query)
    own = {"inner_steps": 3, "inner_optimizer": optimizer, "inner_lr": 0.05, "adapt_steps": 0}
    method = world.prepared("reptile_head", own=own)
    bias = torch.tensor([1.0, 0.0, -0.5])
    zeros = method.space.unflatten(torch.zeros_like(method.phi))
    with torch.no_grad():
        method.phi += method.space.flatten(zeros | {"output.bias": bias})
    training = Training(method, lr=0.1, steps=100, ema=0.0)
    losses = [row["loss"] for row in method.meta_train(training, empty, world.trajectories, seed=0)]
    assert losses[0] > math.log(N_WAY) + 0.05
    assert losses[-1] == pytest.approx(math.log(N_WAY), abs=1e-4)
    learned = method.space.unflatten(draw(method, world.context))["output.bias"][0]
    assert_close(learned, learned.mean().expand(N_WAY), rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", ["prototype", "shared"])
def test_adapted_heads_fit_the_support_better_than_the_initialisation(kind, worlds):
    world = worlds[kind]

    def losses(steps):
        method = moved(
            world.prepared("reptile_head", own={"adapt_steps": steps, "inner_optimizer": "sgd", "inner_lr": 0.02}), 0.05
        )
        return world.head.loss(draw(method, world.context), world.context.examples)

    assert (losses(5) < losses(0)).all() and (losses(20) < losses(5)).all()


def test_a_new_task_is_adapted_on_all_of_its_support(worlds):
    """One step of SGD by hand."""
    world = worlds["shared"]
    method = world.prepared("reptile_head", own={"adapt_steps": 1, "inner_optimizer": "sgd", "inner_lr": 0.1})
    w = method.initial_weights(world.context).requires_grad_()
    (g,) = torch.autograd.grad(world.head.loss(w, world.context.examples).sum(), w)
    assert_close(draw(method, world.context), (w - 0.1 * g).detach(), rtol=1e-5, atol=1e-6)


# --- the images of the inner loop


def test_mini_batches_hold_as_many_images_of_each_class(worlds):
    method = worlds["shared"].prepared("reptile_head", own={"inner_images": 2})
    images = torch.arange(5 * N_WAY * 4).float().reshape(5, N_WAY, 4, 1).expand(-1, -1, -1, F)
    drawn = list(islice(method._mini_batches(images, generator(0, "images")), 30))
    shown = {tuple(batch["inputs"][0, :2, 0].tolist()) for batch in drawn}
    for inputs, labels in (batch.values() for batch in drawn):
        assert labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
        assert_close(inputs[..., 0] // 4, torch.arange(5)[:, None] * N_WAY + labels.float())
        assert inputs[0, 0, 0] != inputs[0, 1, 0]
    assert len(shown) > 6


@pytest.mark.parametrize("train_shots", [1, N_SHOT, N_SHOT + 2])
def test_the_inner_loop_knows_train_shots_images_and_its_start_those_of_a_support(train_shots, worlds):
    world = worlds["prototype"]
    method = world.prepared("reptile_head", own={"train_shots": train_shots, "inner_images": 1, "inner_steps": 40})
    initializations, pools, first, mini_batches = [], [], method.initial_weights, method._mini_batches
    method.initial_weights = lambda context: initializations.append(context.rows) or first(context)
    method._mini_batches = lambda images, stream: pools.append(images) or mini_batches(images, stream)
    pseudo_gradient(world, method)
    assert pools[0].equal(images_of(world, method)) and pools[0].shape[2] == train_shots
    assert initializations[0].equal(pools[0][:, :, :N_SHOT])


def test_more_train_shots_than_images_are_refused(worlds):
    with pytest.raises(InputError, match="train_shots = 11 .* 10 images of a class; lower it"):
        worlds["shared"].prepared("reptile_head", own={"train_shots": 11})


# --- it learns


def test_every_step_draws_its_own_tasks_and_images(worlds):
    method = worlds["shared"].prepared("reptile_head")
    assert len({row["loss"] for row in worlds["shared"].rows(method, Training(method, lr=0.0, steps=4, ema=0.9))}) == 4


@pytest.mark.parametrize("kind", ["shared", "fresh"])
def test_the_loss_after_adaptation_falls(kind, worlds):
    world = worlds[kind]
    method = world.prepared("reptile_head", own={"inner_steps": 5, "inner_lr": 0.02})
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=0.02, steps=80, ema=0.9))]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_what_is_learned_helps_on_new_tasks(worlds):
    world = worlds["shared"]
    method = world.prepared("reptile_head", own={"inner_steps": 5, "inner_lr": 0.02, "adapt_steps": 5})
    task = world.val.batch(torch.arange(len(world.val)))

    def query_loss():
        return world.head.loss(draw(method, task.context), task.query).mean()

    before = query_loss()
    world.rows(method, Training(method, lr=0.02, steps=80, ema=0.9))
    assert query_loss() < 0.9 * before


def test_meta_training_resumes_bit_for_bit(worlds):
    world = worlds["prototype"]

    def begin():
        method = world.prepared("reptile_head")
        return method, Training(method, lr=5e-3, steps=6, ema=0.9)

    straight, training = begin()
    rows = world.rows(straight, training)
    stopped, half = begin()
    first = list(islice(stopped.meta_train(half, world.train, world.trajectories, seed=0), 3))
    method, resumed = begin()
    resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    assert first + world.rows(method, resumed) == rows
    assert_close(resumed.state_dict(), training.state_dict(), rtol=0, atol=0)
