"""What each baseline must be able to do."""

from itertools import product

import pytest
import torch
from every_method import BASELINES, every_world
from torch.testing import assert_close
from worlds import N_WAY, draw

from ltdi.methods.baselines.head_sgd import RATES, STEPS
from ltdi.tasks.class_tasks import ClassTasks, context_of
from ltdi.utils.metrics import mean_and_ci95, nearest_mean_accuracy

# an operation that falls back to a loop under vmap would loop over tasks
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")


@pytest.fixture(scope="module")
def worlds():
    return every_world()


@pytest.fixture(scope="module")
def world(worlds):
    return worlds["prototype", False]


def test_nearest_head_knows_the_training_tasks(world):
    method = world.prepared("nearest_head")
    tasks = torch.tensor([7, 0, 31])
    assert_close(draw(method, world.train.context(tasks)), world.points[tasks, 0], rtol=0, atol=0)


def test_mean_head_ignores_the_context(world):
    w = draw(world.prepared("mean_head"), world.context)
    assert_close(w, world.points[:, 0].mean(0).expand_as(w))


@pytest.mark.parametrize("name", ["mean_head", "nearest_head"])
def test_heads_of_training_tasks_of_more_classes_are_cut(name, world):
    method, two = world.build(name, n_way=2), torch.arange(4)
    val = ClassTasks(world.val.of, world.val.classes[:, :2], world.val.support[:, :2], world.val.query[:, :2])
    method.prepare(world.train, world.trajectories, val)
    heads = world.head.space.some_slots(world.points[:, 0], 2)
    seen = context_of(world.train.context(two).rows[:, :2])
    assert_close(draw(method, seen), heads[two] if name == "nearest_head" else heads.mean(0).expand(4, -1))


def test_prototype_is_the_nearest_class_mean(world):
    task = world.val.batch(torch.arange(len(world.val)))
    scores = world.head.score(draw(world.build("prototype"), task.context), task.query)
    assert_close(scores, nearest_mean_accuracy(task.context.means, task.query["inputs"], task.query["labels"]))


SEEING = [name for name in BASELINES if name not in ("mean_head", "nearest_head")]


@pytest.mark.parametrize("name", SEEING)
def test_baselines_that_see_the_context_beat_chance(name, world):
    task = world.val.batch(torch.arange(len(world.val)))
    mean, _ = mean_and_ci95(world.head.score(draw(world.prepared(name), task.context), task.query))
    assert mean > 2 / N_WAY


def test_trained_baselines_take_the_best_knobs_on_meta_val(world):
    method = world.prepared("head_sgd")
    task = world.val.batch(torch.arange(len(world.val)))

    def score(steps: int, lr: float) -> float:
        method.steps.fill_(steps)
        method.lr.fill_(lr)
        return world.head.score(draw(method, task.context), task.query).mean().item()

    chosen = score(int(method.steps), method.lr.item())
    assert chosen == max(score(steps, lr) for steps, lr in product(STEPS, RATES))
    assert chosen > score(STEPS[0], RATES[0])
