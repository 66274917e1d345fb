"""Meta-Baseline: the cosine classifier in closed form, and its two phases."""

from copy import deepcopy
from itertools import islice

import pytest
import torch
from torch.testing import assert_close
from worlds import N_SHOT, N_WAY, World, draw, stirred

from ltdi.bodies.conv4 import Conv4
from ltdi.methods.common.base import scores
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.metrics import accuracy
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training


@pytest.fixture(scope="module")
def world():
    return World("prototype", with_images=True)


def draws(*shape):
    return torch.randn(*shape, generator=generator(0, "draws", *map(str, shape)))


def score(method, world):
    """On the training classes: few random patterns teach nothing of others."""
    return scores(method.learner, world.train, lambda context: draw(method, context)).mean().item()


# --- the classifier


def test_logits_are_the_temperature_times_the_cosine(world):
    method = world.build("meta_baseline", own={"temperature": 7.0})
    centroids, features = 3 * draws(2, N_WAY, 8), 5 * draws(2, 6, 8)
    logits = method.learner.cosines(centroids, features)
    for b in range(2):
        for m in range(6):
            for n in range(N_WAY):
                f, c = features[b, m], centroids[b, n]
                assert_close(logits[b, m, n], 7 * (f @ c) / (f.norm() * c.norm()))


def test_on_unit_vectors_it_is_the_nearest_mean(world):
    """τ cos = τ (1 − d² / 2): the same order, and the same logits but for a constant."""
    method = world.build("meta_baseline", own={"temperature": 4.0})
    centroids, features = (torch.nn.functional.normalize(x, dim=-1) for x in (draws(5, N_WAY, 8), draws(5, 9, 8)))
    distances = torch.cdist(features, centroids).square()
    assert_close(method.learner.cosines(centroids, features), 4 * (1 - distances / 2), rtol=1e-4, atol=1e-4)
    assert_close(method.learner.cosines(centroids, features).argmax(-1), distances.argmin(-1))


def test_untrained_it_is_the_cosine_to_the_frozen_bodys_means(world):
    method = world.build("meta_baseline", own={"temperature": 10.0})
    task = world.val.batch(torch.arange(len(world.val)))
    w = draw(method, task.context)
    means = task.context.means
    ratio = method.space.unflatten(w)["centroid.weight"] / means
    assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0)
    queries, labels = task.query["inputs"], task.query["labels"]
    cosines = torch.cosine_similarity(queries[:, :, None], means[:, None], dim=-1)
    assert_close(method.learner.logits(w, task.query["images"]), 10 * cosines, rtol=1e-4, atol=1e-4)
    assert_close(method.learner.score(w, task.query), accuracy(cosines, labels))


def test_weights_and_logits_do_not_depend_on_neighbours(world):
    """Batch norm, which has moved, takes its running statistics."""
    method = world.build("meta_baseline")
    world.rows(method, Training(method, lr=1e-2, steps=4, ema=0.9))
    task = world.val.batch(torch.arange(4))
    w = draw(method, task.context)
    logits = method.learner.logits(w, task.query["images"])
    for j in range(4):
        assert_close(draw(method, task.context[j : j + 1]), w[j : j + 1], rtol=1e-4, atol=1e-6)
        alone = method.learner.logits(w[j : j + 1], task.query["images"][j : j + 1])
        assert_close(alone, logits[j : j + 1], rtol=1e-4, atol=1e-4)


def test_images_of_mini_imagenet_size():
    world = World("prototype")
    world.body = Conv4(3, filters=8)
    method = stirred(world.build("meta_baseline"))
    images = torch.randint(256, (2, N_WAY, N_SHOT, 3, 84, 84), generator=generator(0, "images")).to(torch.uint8)
    context = context_of(torch.zeros(2, N_WAY, N_SHOT, 8), images=images)
    plain = method.body.eval()(images.flatten(0, 2).float() / 255).unflatten(0, images.shape[:3]).mean(2)
    w = draw(method, context)
    assert_close(method.space.unflatten(w)["centroid.weight"], plain, rtol=1e-4, atol=1e-5)
    assert method.learner.logits(w, context.examples["images"]).shape == (2, N_WAY * N_SHOT, N_WAY)


# --- training


def test_the_temperature_has_the_gradient_of_its_differences(world):
    method = world.build("meta_baseline")

    def loss():
        return method.episodic_loss(world.train, generator(0, "episode"))

    loss().backward()
    with torch.no_grad():
        method.log_temperature += 0.02
        above = loss()
        method.log_temperature -= 0.04
        below = loss()
    difference = (above - below) / 0.04
    assert difference.abs() > 1e-3
    assert_close(method.log_temperature.grad, difference, rtol=1e-2, atol=1e-4)


def test_both_phases_lower_their_own_loss(world):
    method = world.build("meta_baseline", own={"images_a_batch": 60, "tasks_a_batch": 8})
    training = Training(method, lr=1e-2, steps=60, ema=0.9)
    before = score(method, world)
    rows = method.meta_train(training, world.train, world.trajectories, seed=0)

    classifying = [row["loss"] for row in islice(rows, 30)]
    assert sum(classifying[-5:]) < 0.6 * sum(classifying[:5])
    temperature, classifier = method.log_temperature.item(), deepcopy(method.classifier.state_dict())
    assert temperature == pytest.approx(torch.tensor(10.0).log().item())

    def episodes():
        with torch.no_grad():
            return sum(method.episodic_loss(world.train, generator(0, "episode", j)).item() for j in range(5))

    initialization = episodes()
    assert [row["step"] for row in rows] == list(range(31, 61))
    assert episodes() < 0.6 * initialization
    assert method.log_temperature.item() != pytest.approx(temperature, abs=1e-3)
    assert_close(method.classifier.state_dict(), classifier, rtol=0, atol=0)
    assert score(method, world) > max(before, 0.9)


@pytest.mark.parametrize("share, n_classifying", [(0.0, 0), (0.4, 2), (1.0, 5)])
def test_the_share_of_the_steps_that_classify(share, n_classifying, world, monkeypatch):
    method = world.build("meta_baseline", own={"classify": share})
    calls = []
    for name in ("classification_loss", "episodic_loss"):
        of_phase = getattr(method, name)
        monkeypatch.setattr(
            method, name, lambda *given, name=name, of_phase=of_phase: calls.append(name) or of_phase(*given)
        )
    world.rows(method, Training(method, lr=1e-3, steps=5, ema=0.9))
    assert calls == n_classifying * ["classification_loss"] + (5 - n_classifying) * ["episodic_loss"]


def test_training_moves_the_running_statistics_and_the_average_follows(world):
    method = world.build("meta_baseline")
    training = Training(method, lr=1e-3, steps=4, ema=0.9)
    world.rows(method, training)
    name = "body.blocks.3.1.running_var"
    moved, frozen = method.state_dict()[name], world.body.blocks[3][1].running_var
    assert not torch.equal(moved, frozen)
    assert not torch.equal(training.average[name], frozen)
    after = deepcopy(method.state_dict())
    draw(method, world.context)
    assert_close(method.state_dict(), after, rtol=0, atol=0)


def test_the_body_that_was_handed_in_stays_as_it_is(world):
    before = deepcopy(world.body.state_dict())
    method = world.build("meta_baseline")
    world.rows(method, Training(method, lr=1e-2, steps=4, ema=0.9))
    assert_close(world.body.state_dict(), before, rtol=0, atol=0)
    assert not any(value.requires_grad for value in world.body.parameters())
    assert not any(torch.equal(value, before[name]) for name, value in method.body.named_parameters())


@pytest.mark.parametrize("stop", [1, 3])
def test_meta_training_resumes_bit_for_bit_in_either_phase(stop, world, tmp_path):
    def begin():
        method = world.prepared("meta_baseline")
        return method, Training(method, lr=5e-3, steps=4, ema=0.9)

    straight, training = begin()
    rows = world.rows(straight, training)
    stopped, half = begin()
    first = list(islice(stopped.meta_train(half, world.train, world.trajectories, seed=0), stop))
    write_tensors(tmp_path / "checkpoint.safetensors", half.state_dict(), kind="checkpoint")
    method, resumed = begin()
    resumed.load_state_dict(read_tensors(tmp_path / "checkpoint.safetensors", kind="checkpoint")[0])
    assert first + world.rows(method, resumed) == rows
    assert_close(resumed.state_dict(), training.state_dict(), rtol=0, atol=0)
