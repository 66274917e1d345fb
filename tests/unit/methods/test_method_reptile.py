"""REPTILE on the whole network: grouped tasks against a plain module each, and the outer step against its
definition."""

from copy import deepcopy
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.testing import assert_close
from worlds import META, N_SHOT, N_WAY, World, draw, stirred

from ltdi.bodies.conv4 import Conv4
from ltdi.methods.common.base import scores
from ltdi.methods.generators import reptile
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

POOL = N_SHOT + META["query_images"]


@pytest.fixture(scope="module")
def world():
    return World("prototype", with_images=True)


def with_statistics(body: Conv4) -> Conv4:
    """The body with batch norms that do something."""
    stream = generator(0, "statistics")
    with torch.no_grad():
        for block in body.blocks:
            for tensor in (block[1].running_mean, block[1].bias):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=stream))
            for tensor in (block[1].running_var, block[1].weight):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=stream))
    return body


def plain_logits(method, w, images):
    """The network of one task (D,) as a plain module on images (M, channels, height, width)."""
    tensors = method.space.unflatten(w)
    body = {name: value for name, value in tensors.items() if name.startswith("blocks")}
    features = functional_call(deepcopy(method.body).eval(), body, (images.float() / 255,)) / method.feature_scale
    hidden = (features @ tensors["hidden.weight"].T + tensors["hidden.bias"]).relu()
    return hidden @ tensors["output.weight"].T + tensors["output.bias"]


def plain_gradient(method, w, images, labels):
    w = w.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(plain_logits(method, w, images), labels), w)[0]


def images_of(task):
    """All that a task shows (B, N, K + Q, …)."""
    parts = (task.context.examples["images"], task.query["images"])
    return torch.cat([part.unflatten(1, (N_WAY, -1)) for part in parts], 2)


def kept_gradients(method, world, step=0):
    """What the method hands to Adam at a step."""
    kept = {}

    def descend():
        kept.update({name: value.grad.clone() for name, value in method.named_parameters()})
        training.step += 1

    training = SimpleNamespace(step=step, steps=step + 1, descend=descend)
    world.rows(method, training)
    return kept


def task_of(method, world, step=0):
    stream = generator(0, "meta", step)
    classes = world.train.draw(method.tasks_a_batch, stream)
    return world.train.new(classes, stream, n_query=META["query_images"])


# --- the network


def test_without_steps_it_is_the_frozen_body_and_its_closed_form(world):
    method = world.prepared("reptile", own={"adapt_steps": 0})
    task = world.train.batch(torch.arange(6))
    w = draw(method, task.context)
    logits = world.head.logits(world.initialization.centre(task.context), task.query["inputs"])
    assert_close(method.learner.logits(w, task.query["images"]), logits, rtol=1e-4, atol=1e-4)
    tensors = method.space.unflatten(w)
    for name, value in world.body.named_parameters():
        assert_close(tensors[name], value.expand(6, *value.shape), rtol=0, atol=0)


@pytest.mark.parametrize("channels, side", [(1, 28), (3, 84)])
def test_grouped_networks_are_the_plain_ones(channels, side):
    world = World("prototype")
    world.body = with_statistics(Conv4(channels, filters=8))
    method = world.build("reptile")
    stream = generator(0, "networks")
    w = 0.3 * torch.randn(4, method.space.dim(N_WAY), generator=stream)
    images = torch.randint(256, (4, 6, channels, side, side), generator=stream).to(torch.uint8)
    plain = torch.stack([plain_logits(method, w[j], images[j]) for j in range(4)])
    assert plain.std(0).min() > 1e-3
    assert_close(method.learner.logits(w, images), plain, rtol=1e-4, atol=1e-5)


def test_the_space_is_every_parameter_of_body_and_head(world):
    method = world.build("reptile")
    shapes = {name: tuple(value.shape) for name, value in world.body.named_parameters()} | world.head.space.shapes
    assert method.space.shapes == shapes
    assert method.space.dim(N_WAY) == sum(value.numel() for value in method.parameters())
    w = torch.randn(3, method.space.dim(N_WAY), generator=generator(0, "w"))
    assert_close(method.space.flatten(method.space.unflatten(w)), w, rtol=0, atol=0)


# --- generation


def test_generation_is_steps_on_the_support_images_in_turn(world):
    method = world.prepared("reptile", own={"adapt_steps": 3, "inner_images": 1, "inner_lr": 1e-3})
    w, labels = method.initial_weights(world.context), torch.arange(N_WAY)
    initialization = w.clone()
    for step in range(3):
        images = world.context.examples["images"].unflatten(1, (N_WAY, -1))[:, :, step % N_SHOT]
        w = torch.stack([w[j] - 1e-3 * plain_gradient(method, w[j], images[j], labels) for j in range(len(w))])
    assert (w - initialization).abs().max() > 1e-3
    assert_close(draw(method, world.context) - initialization, w - initialization, rtol=1e-3, atol=1e-6)


def test_the_head_starts_in_the_features_of_the_initialisation(world):
    """Not in those of the frozen body, from which it has moved."""
    method = stirred(world.prepared("reptile"))
    with torch.no_grad():
        method.shift.zero_()
    tensors = method.space.unflatten(method.initial_weights(world.context))
    features = method.learner.features(tensors, world.context.examples["images"]).unflatten(1, (N_WAY, N_SHOT))
    centre = world.head.space.unflatten(world.initialization.centre(context_of(features)))
    assert_close(tensors["output.weight"], centre["output.weight"], rtol=1e-4, atol=1e-5)
    frozen = world.head.space.unflatten(world.initialization.centre(world.context))
    assert not torch.allclose(tensors["output.weight"], frozen["output.weight"], rtol=0.1)


def test_parts_that_fit_into_memory_give_the_same(world, monkeypatch):
    method = world.prepared("reptile")
    task = world.val.batch(torch.arange(5))
    w = draw(method, task.context)
    logits = method.learner.logits(w, task.query["images"])
    monkeypatch.setattr(reptile, "IMAGES_AT_ONCE", 7)
    assert_close(draw(method, task.context), w, rtol=1e-4, atol=1e-5)
    assert_close(method.learner.logits(w, task.query["images"]), logits, rtol=1e-4, atol=1e-4)


def test_two_tasks_are_each_alone(world):
    method = world.prepared("reptile")
    task = world.val.batch(torch.tensor([3, 6]))
    w = draw(method, task.context)
    assert (w[0] - w[1]).abs().max() > 1e-3
    for j in range(2):
        assert_close(draw(method, task.context[j : j + 1]), w[j : j + 1], rtol=1e-4, atol=1e-5)
        alone = method.learner.logits(w[j : j + 1], task.query["images"][j : j + 1])
        assert_close(method.learner.logits(w, task.query["images"])[j : j + 1], alone, rtol=1e-4, atol=1e-4)


# --- the outer step


def test_one_step_of_sgd_is_the_gradient_of_the_mean_loss(world):
    """All images in the one step, so that their order does not count."""
    method = world.prepared("reptile", own={"inner_steps": 1, "inner_images": POOL, "inner_lr": 0.1})
    task = task_of(method, world)
    images = images_of(task)
    first = method.initial_weights(task.context)
    labels = torch.arange(N_WAY).repeat_interleave(POOL)
    joint = torch.stack(
        [plain_gradient(method, first[j], images[j].flatten(0, 1), labels) for j in range(len(first))]
    ).mean(0)
    tensors = method.space.unflatten(joint)
    kept = kept_gradients(method, world)
    for name, _ in method.body.named_parameters():
        assert_close(kept[f"body.{name}"] / 0.1, tensors[name], rtol=1e-2, atol=1e-5)
    assert_close(kept["shift"] / 0.1, world.head.space.flatten(tensors), rtol=1e-2, atol=1e-5)


def test_the_pseudo_gradient_is_the_mean_way_back(world):
    method = world.prepared("reptile", own={"inner_steps": 3, "inner_images": POOL, "inner_lr": 0.02})
    task = task_of(method, world)
    images = images_of(task).flatten(1, 2)
    labels = torch.arange(N_WAY).repeat_interleave(POOL)
    first = method.initial_weights(task.context)
    w = first
    for _ in range(3):
        w = torch.stack([w[j] - 0.02 * plain_gradient(method, w[j], images[j], labels) for j in range(len(w))])
    back = method.space.unflatten((first - w).mean(0))
    kept = kept_gradients(method, world)
    for name, _ in method.body.named_parameters():
        assert_close(kept[f"body.{name}"], back[name], rtol=1e-2, atol=1e-6)
    assert_close(kept["shift"], world.head.space.flatten(back), rtol=1e-2, atol=1e-6)


def test_inner_steps_see_every_image_of_the_task_with_its_label(world, monkeypatch):
    seen = []

    def adapt(loss, w, batches, *, record, **inner):
        seen.extend(islice(batches, POOL))
        return SimpleNamespace(weights=w[:, None], losses=torch.zeros(len(w), 1))

    method = world.prepared("reptile", own={"inner_images": 1})
    task = task_of(method, world)
    monkeypatch.setattr(reptile, "adapt", adapt)
    kept_gradients(method, world)
    images = images_of(task)
    assert all(torch.equal(batch["labels"], torch.arange(N_WAY).expand(len(images), -1)) for batch in seen)
    shown = torch.stack([batch["images"] for batch in seen], 2)
    order = [int((images[0, 0] == image).flatten(1).all(1).nonzero()) for image in shown[0, 0]]
    assert sorted(order) == list(range(POOL)) != order
    assert torch.equal(shown, images[:, :, order])


# --- learning


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fresh", "shared", "prototype"])
def test_it_learns(kind):
    world = World(kind, with_images=True)
    steps = {"inner_steps": 5, "adapt_steps": 5, "inner_optimizer": "adam", "inner_lr": 3e-3, "inner_images": 2}
    method = world.prepared("reptile", own={"tasks_a_batch": 8} | steps)

    def score():
        """On the training classes: few random patterns teach nothing of others."""
        return scores(method.learner, world.train, lambda context: draw(method, context)).mean().item()

    before = score()
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=2e-3, steps=50, ema=0.9))]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert score() > before + 0.1


def test_the_body_that_was_handed_in_stays_as_it_is(world):
    before = deepcopy(world.body.state_dict())
    method = world.prepared("reptile")
    statistics = {name: value.clone() for name, value in method.body.named_buffers()}
    world.rows(method, Training(method, lr=1e-2, steps=2, ema=0.9))
    assert_close(world.body.state_dict(), before, rtol=0, atol=0)
    assert_close(dict(method.body.named_buffers()), statistics, rtol=0, atol=0)
    assert not any(value.requires_grad for value in world.body.parameters())
    assert not any(torch.equal(value, before[name]) for name, value in method.body.named_parameters())


def test_another_body_is_refused_in_one_line():
    world = World("prototype", with_images=True)
    world.body = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="^method.name = 'reptile' adapts the body conv4, and this run's is Linear;"):
        world.build("reptile")
