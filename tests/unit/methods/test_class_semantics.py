"""Learned from the rows of a classifier and from images of some of its classes: heads differ from rows, and how is
learned."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from described_worlds import CLASSES, E, NamedWorld, named_classes
from torch.testing import assert_close
from worlds import draw, stirred

from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.base import shared_draw
from ltdi.learners import LinearHead
from ltdi.methods.common.base import scores
from ltdi.scenarios.zero_shot import with_images
from ltdi.tasks.base import Context
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

IMAGED = 40
LEARNING = {"new_tasks": 8, "recorded_tasks": 0, "query_loss": 1.0, "weight_loss": 0.0}


class RowsAndImages(NamedWorld):
    """The world of names whose classifier counts a quarter of the features with the wrong sign; of a third of its
    classes there are no images."""

    def __init__(self) -> None:
        super().__init__()
        of = named_classes("train")
        stretch = torch.ones(8).index_fill(0, torch.arange(2), -1.0)
        counts = of.counts.index_fill(0, torch.arange(IMAGED, CLASSES["train"]), 0)
        of = replace(of, features=of.features[: int(counts.sum())], counts=counts, rows=of.means() * stretch)
        self.train = NamedClassTasks.of_classes(of, n_tasks=40, n_way=5, n_query=5, seed=0, split="train")
        learner = LinearHead(8, E)
        initialization = INITIALIZATIONS["kernel_ridge"](
            learner, shared_draw(learner, 5, 0), of.texts, of.means(), from_own=True
        )
        self.initialization = initialization.calibrated(self.train, self.val)
        self.record()


@pytest.fixture(scope="module")
def world():
    return RowsAndImages()


def test_tasks_are_drawn_of_classes_with_images_and_rows_are_known_of_all(world):
    of = world.train.of
    assert len(of) == world.train.n_classes == 60 and of.n_drawn == IMAGED
    assert world.train.classes.max() < IMAGED and world.train.draw(50, generator(0, "d"), n_way=30).max() < IMAGED
    assert_close(of.means(), of.rows)
    seen = FeatureMap.fit(of.features, normalise="centred", projection=None)
    assert_close(world.train.through(seen).of.means(), seen(of.rows))
    assert replace(of, rows=of.rows + 1).name != of.name
    with pytest.raises(InputError, match="^tasks.n_way = 41 is more than the 40 classes"):
        NamedClassTasks.of_classes(of, n_tasks=1, n_way=41, n_query=1, seed=0, split="train")


def test_a_known_class_begins_at_its_row_and_a_new_one_at_what_others_say(world):
    context, others = world.train.context(torch.arange(3)), replace(world.initialization, from_own=False)
    assert_close(world.initialization.centre(context), world.initialization.ends(context))
    assert not torch.allclose(others.centre(context), others.ends(context), rtol=0.1)
    asked = world.test.context(torch.arange(3))
    assert_close(world.initialization.centre(asked), others.centre(asked), rtol=0, atol=0)


def test_the_temperature_is_that_of_known_rows_on_their_images(world):
    task = world.train.batch(torch.arange(len(world.train)))

    def loss(temperature):
        initialization = replace(world.initialization, temperature=temperature)
        return initialization.learner.loss(initialization.centre(task.context), task.query).mean().item()

    assert loss(world.initialization.temperature) <= min(
        loss(world.initialization.temperature * 2**e) for e in (-0.5, 0.5)
    )


def test_the_denoiser_is_shown_where_it_begins(world):
    """Two tasks of the same texts that begin elsewhere are moved differently."""
    method = stirred(world.prepared("ltdi", meta=LEARNING))
    text = torch.randn(1, 5, 1, E, generator=generator(0, "text")).expand(2, -1, -1, -1)
    known = torch.stack([torch.arange(5), torch.arange(5, 10)])
    context = Context(text, known=known)
    moved = draw(method, context) - method.initialization.centre(context)
    assert not torch.allclose(moved[0], moved[1], rtol=0.05)
    blind = INITIALIZATIONS["shared"](world.initialization.learner, world.initialization.shared)
    assert not blind.shown and world.initialization.shown


@pytest.mark.slow
def test_how_heads_of_images_differ_from_rows_is_learned_and_carries_over_to_new_names(world):
    method = world.prepared("ltdi", meta=LEARNING)
    world.rows(method, Training(method, lr=5e-3, steps=150, ema=0.9))
    method.eval().finish(world.val, seed=0)
    initialization = scores(method.learner, world.test, world.initialization.centre)
    found = scores(method.learner, world.test, lambda context: draw(method, context))
    assert method.update_scale[0] > 0 and (found - initialization).mean() > 0.05


def test_eszsl_takes_rows_for_images_where_there_are_rows(world):
    """Then images are of no account."""
    found = world.prepared("eszsl").bilinear
    of, drawn = world.train.of, (world.train.classes, world.train.support, world.train.query)
    other = world.build("eszsl")
    other.prepare(NamedClassTasks(replace(of, features=2 * of.features), *drawn), world.trajectories, world.val)
    assert_close(other.bilinear, found, rtol=0, atol=0)
    assert scores(other.learner, world.val, lambda context: draw(other, context)).mean() > 0.3


def test_classes_with_images_come_first():
    names = {"n1": "zebra", "n2": "okapi", "n3": "tapir", "n4": "dog"}
    images = torch.arange(5.0)[:, None]
    order, counts, kept = with_images(names, {"x": "Tapir", "y": "gnu", "n1": "z"}, torch.tensor([2, 1, 2]), images)
    assert order == ["n3", "n1", "n2", "n4"] and counts.tolist() == [2, 2, 0, 0]
    assert kept.flatten().tolist() == [0, 1, 3, 4]
    with pytest.raises(InputError, match="^tasks.names.learn_from = both: no meta-training class"):
        with_images(names, {"y": "gnu"}, torch.tensor([5]), images)


def test_rows_of_equal_direction_are_the_same_start(world):
    """Only the direction of a row from the mean counts."""
    table, learner = world.initialization.table, world.initialization.learner
    w = table.classifier(learner, table.centred[None, :3], 2.0)
    assert_close(table.classifier(learner, 7 * table.centred[None, :3], 2.0), w)
    rows = learner.space.unflatten(w)["output.weight"]
    assert_close(rows, 2 * F.normalize(table.centred[None, :3], dim=-1))
