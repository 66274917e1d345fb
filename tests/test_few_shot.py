"""Which closed form the start takes: ridge only where meta-val shows it to be better."""

from dataclasses import replace

import pytest
import torch
from worlds import World

from ltdi.tasks import TaskSource
from pipeline.collect_trajectories import KINDS, _calibrated, _gains, _start
from pipeline.params import Trajectories

KNOBS = {
    "hidden": 12,
    "fit_on": "class",
    "augment": False,
    "optimizer": "adam",
    "lr": 0.01,
    "steps": 6,
    "length": 4,
    "sam": 0.0,
}
KNOBS |= {"start": "closed_form", "shard_size": 100, "max_dropped": 0.0}


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def chosen(val: TaskSource, **changes):
    return _start({"meta_val": val}, Trajectories(**KNOBS | changes), seed=0)


def test_only_a_gain_beyond_chance_counts(world):
    good = _calibrated(world.start, world.val)
    # of a fresh start all classes score the same
    chance = replace(good, kind="fresh")
    assert _gains(chance, good, world.val, seed=0)
    assert not _gains(good, chance, world.val, seed=0)
    assert not _gains(good, good, world.val, seed=0)


def stretched(source: TaskSource) -> TaskSource:
    """Classes that differ in one feature, the others being noise that drowns it: the case for ridge regression, not for the nearest mean."""
    stream = torch.Generator().manual_seed(0)
    C, I, F = source.features.shape
    features = 20 * torch.rand(C, I, F, generator=stream)
    features[..., 0] = torch.arange(C)[:, None] + 0.05 * torch.rand(C, I, generator=stream)
    return TaskSource(features, source.classes, source.support, source.query)


def test_ridge_is_taken_where_it_is_better_and_the_prototype_else(world):
    assert KINDS == {"closed_form": ("prototype", "ridge")}
    assert chosen(world.val).kind == "prototype"
    assert chosen(stretched(world.val)).kind == "ridge"


@pytest.mark.parametrize("kind", ["fresh", "shared", "prototype", "ridge"])
def test_a_start_without_a_choice_is_left_alone(kind, world):
    for val in (world.val, stretched(world.val)):
        assert chosen(val, start=kind).kind == kind


@pytest.mark.parametrize("kind", ["fresh", "shared"])
def test_what_has_no_closed_form_has_nothing_to_calibrate(kind, world):
    start = chosen(world.val, start=kind)
    assert (start.temperature, start.ridge) == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["prototype", "ridge"])
def test_a_closed_form_is_calibrated(kind, world):
    start = chosen(stretched(world.val), start=kind)
    assert start.temperature != 1.0
