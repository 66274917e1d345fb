"""What all trained methods share: how a batch of tasks is drawn, and the loss of a head."""

import pytest
import torch
from torch.testing import assert_close
from worlds import META, N_QUERY, N_WAY, World, draw

from ltdi.heads import task_losses
from ltdi.methods.base import TaskBatch, TrainedMethod, query_accuracies
from ltdi.metrics import nearest_mean_accuracy
from ltdi.seeding import generator
from ltdi.tasks import labelled


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def batch(world, **meta) -> TaskBatch:
    return TaskBatch.draw(world.train, META | meta, generator(0, "batch"))


@pytest.mark.parametrize("fresh, recorded", [(0.0, 16), (0.25, 12), (1.0, 0)])
def test_a_share_of_the_tasks_is_new(world, fresh, recorded):
    chosen = batch(world, fresh=fresh)
    assert len(chosen.recorded) == recorded == len(chosen.recorded.unique())
    assert chosen.fresh.shape == (16 - recorded, N_WAY)
    task = chosen.task(world.train, META | {"fresh": fresh}, generator(0, "images"))
    assert len(task.support) == 16 and task.query.features.shape[:3] == (16, N_WAY, META["query_images"])
    assert chosen.points(world.trajectories).equal(world.trajectories.points[chosen.recorded])


def test_recorded_tasks_show_other_images_where_that_is_wanted(world):
    chosen = batch(world)
    as_drawn = chosen.task(world.train, META | {"redraw": False, "query_images": N_QUERY}, generator(0, "images"))
    assert as_drawn.support.features.equal(world.train.support_of(chosen.recorded).features)
    redrawn = chosen.task(world.train, META, generator(0, "images"))
    assert not redrawn.support.features.equal(as_drawn.support.features)


def test_weights_and_x_are_inverse_and_x_has_unit_size(world):
    method = TrainedMethod(world.start, meta=META)
    method.prepare(world.train, world.trajectories, world.val)
    centre = world.start.centre(world.train.support_of(torch.arange(len(world.train))))
    w = world.trajectories.points[:, 0]
    x = method.to_x(w, centre)
    assert_close(method.to_w(x, centre), w)
    for part in method.space.tokens(x).values():
        assert_close(part.square().mean(), torch.tensor(1.0))


def test_the_loss_of_a_head_is_its_two_parts(world):
    method = TrainedMethod(world.start, meta=META | {"weight_loss": 0.3, "query_loss": 0.7})
    method.prepare(world.train, world.trajectories, world.val)
    task = world.train.batch(torch.arange(4))
    points = world.trajectories.points[:3]
    # the heads of three recorded tasks, moved by half a scale; the fourth has no trajectory
    w = world.trajectories.points[:4, 0] + 0.5 * method.scale
    query = task_losses(world.head, w, *labelled(task.query.features))
    assert_close(method.head_loss(w, task, points), 0.7 * query + 0.3 * torch.tensor([0.25, 0.25, 0.25, 0.0]))
    assert_close(method.head_loss(w, task, points[:0]), 0.7 * query)


@pytest.mark.parametrize("tasks_a_batch", [1, 3, 64])
def test_accuracies_do_not_depend_on_the_batches(world, tasks_a_batch):
    task = world.val.batch(torch.arange(len(world.val)))
    prototype = world.build("prototype")
    scores = query_accuracies(prototype, world.val, lambda support: draw(prototype, support), tasks_a_batch=tasks_a_batch)
    assert_close(scores, nearest_mean_accuracy(task.support.features, task.query.features))
