"""Streamed trajectories: the same as collected ones, whatever was streamed before."""

import pytest
import torch
from worlds import World, read

from ltdi.trajectories.collection import collect
from ltdi.trajectories.streaming import StreamedTrajectories
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

SETTINGS = {
    "fit_on": "class",
    "augment": False,
    "optimizer": "sgd",
    "lr": 0.1,
    "steps": 6,
    "length": 4,
    "sam": 0.0,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def world():
    return World("shared")


def streamed(world, seed=0, **sizes):
    sizes = {"pool": 12, "uses_per_trajectory": 2, "tasks_a_step": 4} | sizes
    return StreamedTrajectories(world.trajectories, world.initialization, SETTINGS, seed=seed, **sizes)


def test_a_chunk_is_what_collection_makes_of_its_tasks(world):
    source, trajectories = streamed(world).at(0, world.train)
    seed = generator(0, "streamed trajectories", 0).initial_seed()
    tasks = torch.arange(12)
    assert trajectories.points(tasks).equal(collect(world.initialization, source, tasks, seed=seed, **SETTINGS).points)
    assert source.classes.shape == (12, 3) and not source.classes.equal(world.train.classes[:12])


def test_a_resumed_stream_goes_on_with_the_same(world):
    through, resumed = streamed(world), streamed(world)
    for step in range(20):
        source, trajectories = through.at(step, world.train)
    again, of_the_same = resumed.at(19, world.train)
    assert source.support.equal(again.support)
    tasks = torch.arange(len(source))
    assert trajectories.points(tasks).equal(of_the_same.points(tasks))


def test_tasks_are_replaced_after_their_uses(world):
    stream = streamed(world)
    # 12 tasks of 4 a step are used twice in 6 steps
    assert stream.interval == 6
    supports = [stream.at(step, world.train)[0].support for step in (0, 5, 6)]
    assert supports[0].equal(supports[1]) and not supports[0].equal(supports[2])
    assert len(stream.chunks) == 2, "chunks that are past stay in memory"


def test_seeds_differ(world):
    a, b = (streamed(world, seed).at(0, world.train)[0] for seed in (0, 1))
    assert not a.support.equal(b.support)


def test_a_method_learns_from_the_stream_alone(world, monkeypatch):
    method = world.prepared("lvdi", meta={"query_loss": 0.0, "new_tasks": 0}, diffusion={"on_policy": 0.5})
    stream, drawn = streamed(world, tasks_a_step=8), []
    monkeypatch.setattr(world.train, "batch", lambda tasks: pytest.fail("a stored task was drawn"))
    training = Training(method, lr=1e-3, steps=4, ema=0.9)
    for row in method.meta_train(training, world.train, stream, seed=0):
        drawn += read([row])
    assert len(drawn) == 4 and all(row["loss"] > 0 for row in drawn)


def test_weights_that_diverge_are_refused(world):
    settings = SETTINGS | {"lr": 1e30}
    stream = StreamedTrajectories(
        world.trajectories, world.initialization, settings, pool=4, uses_per_trajectory=1, tasks_a_step=4, seed=0
    )
    with pytest.raises(InputError, match=r"lower trajectories\.lr"):
        stream.at(0, world.train)
