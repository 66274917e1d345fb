"""ICIS: its four reconstructions, and what it does not see."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from described_worlds import NamedWorld
from torch.testing import assert_close
from worlds import read, stirred

from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

LEARNING = {"new_tasks": 8, "recorded_tasks": 8, "query_loss": 1.0, "weight_loss": 0.1}


@pytest.fixture(scope="module")
def world():
    return NamedWorld()


def test_icis_counts_four_reconstructions_and_unseen_descriptors_in_one(world):
    method = stirred(world.prepared("icis"))
    texts, rows = F.normalize(method.texts[:6], dim=-1), F.normalize(method.table.centred[:6], dim=-1)
    unseen = F.normalize(world.val.of.texts, dim=-1)
    with_them, without = (method.reconstruction_losses(texts, rows, u) for u in (unseen, unseen[:0]))
    assert set(with_them) == {"a_to_a", "w_to_w", "a_to_w", "w_to_a"}
    for name, value in with_them.items():
        assert math.isclose(value.item(), without[name].item(), abs_tol=1e-5) == (name != "a_to_a")

    def expected(source, target, x, y):
        found = method.decode[target](method.encode[source](x))
        return (1 - (F.normalize(found, dim=-1) * F.normalize(y, dim=-1)).sum(-1)).mean()

    both = torch.cat([texts, unseen])
    assert_close(with_them["a_to_a"], expected("a", "a", both, both))
    assert_close(with_them["w_to_w"], expected("w", "w", rows, rows))
    assert_close(with_them["a_to_w"], expected("a", "w", texts, rows))
    assert_close(with_them["w_to_a"], expected("w", "a", rows, texts))


def test_icis_sees_no_image(world):
    """Other images with the same means change nothing but what meta-val chooses."""
    method = world.prepared("icis")
    before = world.rows(method, Training(method, lr=1e-3, steps=3, ema=0.9))
    of = world.train.of
    noise = torch.randn(of.features.shape, generator=generator(0, "noise")).unflatten(0, (60, 10))
    noisy = (of.features.unflatten(0, (60, 10)) + noise - noise.mean(1, keepdim=True)).flatten(0, 1)
    drawn = world.train.classes, world.train.support, world.train.query
    other = NamedClassTasks(replace(of, features=noisy), *drawn)
    again = world.build("icis", meta=LEARNING)
    again.prepare(other, world.trajectories, world.val)
    assert_close(again.rows, method.rows, rtol=1e-4, atol=1e-5)
    after = read(again.meta_train(Training(again, lr=1e-3, steps=3, ema=0.9), other, world.trajectories, seed=0))
    assert [row["loss"] for row in after] == pytest.approx([row["loss"] for row in before], rel=1e-3)


def test_a_step_of_more_classes_than_are_known_says_so(world, capsys):
    method = world.prepared("icis")
    n_known = len(method.table.centred)
    for size, told in ((n_known, False), (n_known + 1, True)):
        method.classes_a_batch = size
        world.rows(method, Training(method, lr=1e-3, steps=1, ema=0.9))
        assert (f"classes_a_batch = {size}: there are {n_known} training classes" in capsys.readouterr().out) == told
