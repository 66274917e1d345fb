"""The linear map from class means to recorded weights."""

import pytest
import torch
from torch.testing import assert_close
from worlds import World, draw

from ltdi.methods.baselines import weight_regression
from ltdi.methods.baselines.weight_regression import PENALTIES
from ltdi.tasks.base import Task
from ltdi.trajectories.collection import Trajectories


@pytest.fixture(params=["shared", "prototype"])
def world(request):
    return World(request.param)


def linear_weights(world, method, source):
    """Weights that are a linear map of what the method sees, for the tasks of a source (M, D)."""
    tasks = torch.arange(len(source))
    context = source.context(tasks)
    tokens = {}
    centre = world.initialization.centre(context)
    for layer, x in zip(method.layers, method._inputs(context)):
        of_slots = layer == world.head.space.slot_layer
        numbers = world.head.space.numbers[layer] * (1 if of_slots else world.head.space.neurons[layer])
        y = x @ torch.randn(x.shape[1], numbers, generator=torch.Generator().manual_seed(len(layer)))
        tokens[layer] = (
            y.unflatten(0, (len(tasks), -1)) if of_slots else y.unflatten(1, (-1, world.head.space.numbers[layer]))
        )
    return centre + world.head.space.from_tokens(tokens)


def test_a_linear_map_is_found(world, monkeypatch):
    monkeypatch.setattr(weight_regression, "PENALTIES", (1e-4,))
    method = world.prepared("weight_regression")
    w = linear_weights(world, method, world.train)
    method.prepare(world.train, Trajectories.of(w[:, None].expand(-1, 4, -1)), world.val)
    # 40 tasks of 3 classes say all of 17 inputs of a class; the other layer's map is of as many
    context = world.train.context(torch.arange(40))
    made = draw(method, context)
    slots, expected = (world.head.space.tokens(each)["output"] for each in (made, w))
    assert_close(slots, expected, rtol=1e-2, atol=1e-2)


def test_ridge_by_its_closed_form(world):
    method = world.prepared("weight_regression")
    context = world.train.context(torch.arange(len(world.train)))
    x = dict(zip(method.layers, method._inputs(context)))["output"].double()
    away = (
        world.head.space.tokens(world.points[:, 0] - world.initialization.centre(context))["output"]
        .flatten(0, 1)
        .double()
    )
    solutions = [torch.linalg.solve(x.mT @ x + p * torch.eye(x.shape[1]), x.mT @ away).float() for p in PENALTIES]
    found = method.maps[method.layers.index("output")]
    assert any(torch.allclose(found, each, rtol=1e-3, atol=1e-4) for each in solutions)


def test_a_class_gets_the_same_row_in_whatever_slot(world):
    method, context = world.prepared("weight_regression"), world.context
    order = torch.tensor([2, 0, 1])
    turned = type(context)(context.rows[:, order], None, {})
    if world.initialization.kind == "shared":
        tokens, moved = (
            world.head.space.tokens(draw(method, each) - world.initialization.shared) for each in (context, turned)
        )
    else:
        tokens, moved = (world.head.space.tokens(draw(method, each)) for each in (context, turned))
    assert_close(moved["output"], tokens["output"][:, order], rtol=1e-4, atol=1e-5)


def test_its_state_is_all_that_it_needs(world):
    method, again = world.prepared("weight_regression"), world.build("weight_regression")
    assert not draw(again, world.context).equal(draw(method, world.context))
    again.load_state_dict(method.state_dict())
    assert draw(again, world.context).equal(draw(method, world.context))


def test_the_penalty_is_the_best_on_meta_val(world):
    """More queries are right than with the recorded weights' mean, which a map of zeros would give."""
    method = world.prepared("weight_regression")
    task: Task = world.val.batch(torch.arange(len(world.val)))
    score = world.head.score(draw(method, task.context), task.query).mean()
    context = world.val.context(torch.arange(len(world.val)))
    of_start = world.head.score(world.initialization.centre(context), task.query).mean()
    assert score >= of_start - 0.02
