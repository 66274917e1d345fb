"""The meta-hypernetwork: what reaches its condition, its symmetry, its start, and that it can fit."""

import pytest
import torch
from torch.testing import assert_close
from worlds import N_WAY, World, draw, stirred

from ltdi.tasks.base import Task
from ltdi.tasks.batch import Batch
from ltdi.tasks.class_tasks import Classes, ClassTasks, context_of
from ltdi.utils.trainer import Training

NAME = "meta_hypernetwork"
ADAPTED = [{"adapt_steps": 0}, {"adapt_steps": 2, "adapt_lr": 0.5}]
both_forms = pytest.mark.parametrize("own", ADAPTED, ids=["feed-forward", "adapted"])


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def batch_of(world, n: int = 4) -> Task:
    return world.train.batch(torch.arange(n))


def doubled(batch: Batch) -> dict:
    return batch | {"inputs": batch["inputs"].double()}


@both_forms
@pytest.mark.parametrize("kind", ["prototype", "shared", "fresh"])
def test_it_begins_at_the_start(own, kind):
    world = World(kind)
    method = world.prepared(NAME, own=own)
    assert_close(draw(method, world.context), world.initialization.centre(world.context).clone(), rtol=0, atol=0)


@both_forms
@pytest.mark.parametrize("condition", ["mean", "attention"])
def test_permuted_classes_permute_the_output_layer(own, condition, world):
    permutation = torch.tensor([2, 0, 1])
    method = stirred(world.prepared(NAME, denoiser={"condition": condition}, own=own))
    w = method.space.unflatten(draw(method, world.context))
    permuted = method.space.unflatten(draw(method, context_of(world.context.rows[:, permutation])))
    for name in ("output.weight", "output.bias"):
        assert_close(permuted[name], w[name][:, permutation], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(permuted[name], w[name], atol=1e-3)
    for name in ("hidden.weight", "hidden.bias"):
        assert_close(permuted[name], w[name], rtol=1e-4, atol=1e-5)


def test_a_class_moves_its_own_row_most_and_the_hidden_neurons_apart(world):
    """The rows of the output layer differ by their classes; the neurons of the hidden layer by themselves."""
    method = stirred(world.prepared(NAME, own={"adapt_steps": 0}))
    e = method.condition(world.context.rows, world.context.present).detach()
    other = e.clone()
    other[:, 1] += torch.randn(e.shape[-1], generator=torch.Generator().manual_seed(0))
    tokens, moved = (method.space.tokens(method.hypernetwork(each).detach()) for each in (e, other))
    change = (moved["output"] - tokens["output"]).square().mean((0, 2))
    assert change[1] > 3 * change[[0, 2]].max()
    assert (change > 0).all()
    assert (moved["hidden"] - tokens["hidden"]).abs().max() > 1e-3
    assert torch.pdist(tokens["hidden"][0]).min() > 1e-3


@both_forms
def test_the_loss_reaches_the_condition_as_finite_differences_say(own):
    """By the rows of one class, from a start that does not see them: all that is left is the way through e."""
    world = World("shared")
    method, task = stirred(world.prepared(NAME, own=own)).double(), batch_of(world)
    rows, query = task.context.rows.double(), doubled(task.query)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        context = context_of(rows)
        return method.learner.loss(method.weights(context, method.initialization.centre(context)), query).sum()

    direction = torch.zeros_like(rows)
    direction[:, 1] = torch.randn(rows[:, 1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(rows.requires_grad_()), rows)
    slope = (gradient * direction).sum()
    with torch.no_grad():
        difference = (loss(rows + 1e-5 * direction) - loss(rows - 1e-5 * direction)) / 2e-5
    assert_close(slope, difference, rtol=1e-5, atol=1e-9)
    assert slope.abs() > 1e-3


def test_the_loss_is_learned_through_the_adaptation(world):
    """The parameters' gradient, second order included, against a difference along a random direction."""
    method = stirred(world.prepared(NAME, own=ADAPTED[1])).double()
    task = batch_of(world)
    task = Task(context_of(task.context.rows.double()), doubled(task.query))
    stream = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=stream, dtype=torch.float64) for p in method.parameters()]
    method.loss(task, None, None).sum().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(method.parameters(), direction))

    def moved(step: float) -> torch.Tensor:
        with torch.no_grad():
            for p, d in zip(method.parameters(), direction):
                p += step * d
            value = method.loss(task, None, None).sum()
            for p, d in zip(method.parameters(), direction):
                p -= step * d
        return value

    assert_close(slope, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-8)


def test_adaptation_lowers_the_loss_on_the_examples():
    world = World("shared")

    def examples_loss(**own) -> torch.Tensor:
        method = stirred(world.prepared(NAME, own=own))
        return world.head.loss(draw(method, world.context), world.context.examples)

    before, after = examples_loss(adapt_steps=0), examples_loss(adapt_steps=5, adapt_lr=0.1)
    assert (after < before).all()


@pytest.mark.slow
@both_forms
def test_one_task_is_fitted(own):
    world = World("shared")
    method = world.prepared(NAME, own=own, meta={"new_tasks": 1})
    # three classes whose images are all alike
    task = world.train.batch(torch.tensor([3]))
    features = task.context.rows[0, :, :1].expand(-1, 10, -1).flatten(0, 1)
    classes = Classes(features, torch.full((3,), 10))
    world.train = ClassTasks(classes, torch.arange(3)[None], world.train.support[:1], world.train.query[:1])
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=200, ema=0.9))]
    assert losses[-1] < 0.01 < 0.5 < losses[0]


def test_the_loss_falls_on_tasks_that_differ():
    world = World("shared")
    method = world.prepared(NAME, meta={"new_tasks": 40})
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=40, ema=0.9))]
    assert abs(losses[0] - torch.tensor(N_WAY).log()) < 1
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_loss_is_that_of_the_queries_alone(world):
    """Of recorded tasks and of new ones; the trained heads do not count."""
    method, task = stirred(world.prepared(NAME)), batch_of(world)
    w = draw(method, task.context)
    for points in (world.points[:4], None):
        assert_close(method.loss(task, points, None).detach(), world.head.loss(w, task.query))
