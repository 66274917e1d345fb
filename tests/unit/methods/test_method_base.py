"""What all trained methods share: what a step is made of, and the loss of a head."""

import math

import pytest
import torch
from torch.testing import assert_close
from worlds import META, N_QUERY, N_SHOT, N_WAY, World, draw

from ltdi.config import MetaTraining
from ltdi.methods.common.base import scores
from ltdi.methods.common.trained import MetaBatch, TrainedMethod
from ltdi.utils.metrics import nearest_mean_accuracy
from ltdi.utils.seeding import generator


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def batch(world, seed=0, **meta) -> MetaBatch:
    return MetaBatch.draw(world.train, MetaTraining(**(META | meta)), generator(seed, "batch"))


def parts_of(world, chosen, seed=0, **meta):
    return chosen.parts(world.train, world.trajectories, MetaTraining(**(META | meta)), generator(seed, "images"))


@pytest.mark.parametrize("n_way, classes", [(2, 2), (5, 5), (256, 12)])
def test_a_step_is_of_recorded_tasks_and_of_new_ones(world, n_way, classes):
    chosen = batch(world, n_way=n_way)
    assert len(chosen.recorded) == 16 == len(chosen.recorded.unique())
    assert chosen.names.shape == (4, classes) and (chosen.names.sort(1).values.diff(dim=1) > 0).all()
    (recorded, points), (new, none) = parts_of(world, chosen, n_way=n_way)
    assert none is None and points.equal(world.points[chosen.recorded])
    assert (
        recorded.context.rows.shape[:3] == (16, N_WAY, N_SHOT) and recorded.query["inputs"].shape[1] == N_WAY * N_QUERY
    )
    assert (
        new.context.rows.shape[:3] == (4, classes, chosen.n_shot)
        and new.query["inputs"].shape[1] == classes * META["query_images"]
    )


def test_a_recorded_task_is_the_one_that_its_trajectory_is_of(world):
    chosen = batch(world)
    recorded, _ = parts_of(world, chosen)[0]
    assert recorded.context.rows.equal(world.train.context(chosen.recorded).rows)


def test_new_tasks_show_other_images_at_every_call(world):
    chosen = batch(world)
    (one, _), (other, _) = (parts_of(world, chosen, seed)[1] for seed in range(2))
    assert not one.context.rows.equal(other.context.rows)
    for task in (one, other):
        queries = task.query["inputs"].unflatten(1, task.context.rows.shape[1:2] + (-1,))
        images = torch.cat([task.context.rows, queries], 2)
        own = world.train.of.features.unflatten(0, (12, 10))[chosen.names]
        assert (images[:, :, :, None] == own[:, :, None]).all(-1).any(-1).all()


def test_the_number_of_images_is_even_in_its_logarithm(world):
    drawn = torch.tensor([batch(world, seed, min_shot=2, max_shot=5).n_shot for seed in range(2000)])
    shares = drawn.bincount(minlength=7)[2:] / 2000
    expected = torch.tensor([3 / 2, 4 / 3, 5 / 4, 6 / 5, 1.0]).log() / math.log(3)
    # deviations of at most 0.011
    assert_close(shares, expected, rtol=0, atol=0.05)
    assert {batch(world, seed, min_shot=2, max_shot=2).n_shot for seed in range(20)} == {2}


@pytest.mark.parametrize(
    "meta, sizes",
    [
        ({}, (16, 4)),
        ({"weight_loss": 0.0}, (0, 4)),
        ({"query_loss": 0.0}, (16, 0)),
        ({"new_tasks": 0}, (16, 0)),
        ({"recorded_tasks": 0}, (0, 4)),
    ],
)
def test_what_has_no_weight_in_the_loss_is_not_drawn(world, meta, sizes):
    method = TrainedMethod(world.initialization, world.setup(meta=meta))
    chosen = MetaBatch.draw(world.train, method.meta, generator(0, "batch"))
    assert (len(chosen.recorded), len(chosen.names)) == sizes
    kinds = [
        points is not None
        for _, points in chosen.parts(world.train, world.trajectories, method.meta, generator(0, "images"))
    ]
    assert kinds == [True] * (sizes[0] > 0) + [False] * (sizes[1] > 0)


def test_a_method_without_records_draws_new_tasks_alone(world):
    assert world.build("meta_hypernetwork").meta.recorded_tasks == 0
    assert world.build("ghn3").meta.recorded_tasks == 16


def test_weights_and_x_are_inverse_and_the_scale_is_that_of_the_trained_heads(world):
    method = TrainedMethod(world.initialization, world.setup())
    method.prepare(world.train, world.trajectories, world.val)
    centre = world.initialization.centre(world.train.context(torch.arange(len(world.train))))
    w = world.points[:, 0]
    x = method.to_x(w, centre)
    assert_close(method.to_w(x, centre), w)
    for part in method.space.tokens((w - centre) / method.scale(w.shape[-1])).values():
        assert_close(part.square().mean(), torch.tensor(1.0))


def test_a_bias_of_x_is_what_a_logit_gains_at_the_mean_activation(world):
    method = TrainedMethod(world.initialization, world.setup())
    method.prepare(world.train, world.trajectories, world.val)
    context = world.train.context(torch.arange(len(world.train)))
    centre = world.initialization.centre(context)
    w, hidden = world.points[:, 0], world.head.space.unflatten(centre)
    activations = context.examples["inputs"] @ hidden["hidden.weight"].mT + hidden["hidden.bias"][:, None]
    assert_close(method.reference, activations.relu().mean((0, 1)))
    before, after, x = (method.space.unflatten(each) for each in (centre, w, method.to_x(w, centre)))
    gained = (
        (after["output.weight"] - before["output.weight"]) @ method.reference
        + after["output.bias"]
        - before["output.bias"]
    )
    assert_close(x["output.bias"] * method.layer_scale[1], gained)
    assert_close(x["output.weight"] * method.layer_scale[1], after["output.weight"] - before["output.weight"])


def test_the_scale_of_a_layer_holds_for_any_number_of_classes(world):
    method = TrainedMethod(world.initialization, world.setup())
    method.prepare(world.train, world.trajectories, world.val)
    for n_way in (2, N_WAY, 7):
        scale = method.space.tokens(method.scale(method.space.dim(n_way)))
        for value, part in zip(method.layer_scale, scale.values()):
            assert_close(part, value.expand_as(part))


def test_recorded_tasks_count_by_their_heads_as_well_and_new_ones_by_their_queries_alone(world):
    method = TrainedMethod(world.initialization, world.setup(meta={"weight_loss": 0.3, "query_loss": 0.7}))
    method.prepare(world.train, world.trajectories, world.val)
    task, points = world.train.batch(torch.arange(4)), world.points[:4]
    # the trained heads, moved by half a unit of x
    w = method.to_w(torch.full_like(points[:, 0], 0.5), points[:, 0])
    query = 0.7 * world.head.loss(w, task.query)
    assert_close(method.weights_loss(w, task, points), query + 0.3 * 0.25)
    assert_close(method.weights_loss(w, task, None), query)


@pytest.mark.parametrize("tasks_a_batch", [1, 3, 64])
def test_accuracies_do_not_depend_on_the_batches(world, tasks_a_batch):
    task = world.val.batch(torch.arange(len(world.val)))
    prototype = world.build("prototype")
    found = scores(prototype.learner, world.val, lambda context: draw(prototype, context), tasks_a_batch=tasks_a_batch)
    assert_close(found, nearest_mean_accuracy(task.context.means, task.query["inputs"], task.query["labels"]))
