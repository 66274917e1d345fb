"""Names joined with a few images: the ends, the shrinkage in closed form, the choice on meta-val."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from described_worlds import NamedWorld, named_classes
from torch.testing import assert_close

from ltdi.methods.common.name_image_fusion import (
    IMAGES_ONLY,
    NAMES_ONLY,
    FusionWeights,
    NameImageFusion,
    direction_accuracy,
    select_fusion,
)
from ltdi.utils.seeding import generator

MEAN = torch.full((8,), 0.3)


@pytest.fixture(scope="module")
def world():
    return NamedWorld("kernel_ridge")


def task(world, of=None, n_shot=2):
    """Directions of names (B, N, F), rows of images (B, N, K, F), which are there: the second class has one, the third
    none."""
    context = world.val.context(torch.arange(4))
    named = F.normalize(world.initialization.directions(context), dim=-1)
    rows = torch.randn(4, 5, n_shot, 8, generator=generator(0, "rows"))
    present = torch.ones(4, 5, n_shot)
    present[:, 1, 1:], present[:, 2] = 0, 0
    return named, rows, present


def test_the_ends_are_the_names_and_the_images(world):
    named, rows, present = task(world)
    centre = NAMES_ONLY.centre(MEAN, rows, present)
    assert_close(centre, MEAN.expand(4, -1), rtol=0, atol=0)
    assert_close(NAMES_ONLY.directions(named, rows, present, centre), named)
    found = IMAGES_ONLY.directions(named, rows, present, centre)
    images = F.normalize(rows - MEAN, dim=-1)
    assert_close(found[:, 0], F.normalize(images[:, 0].mean(1), dim=-1))
    assert_close(found[:, 1], images[:, 1, 0])
    assert_close(found[:, 2], named[:, 2])


def test_a_name_is_worth_so_many_images_and_images_pull_the_centre_by_how_many_there_are(world):
    named, rows, present = task(world)
    joining = FusionWeights(name_weight=3.0, mean_weight=7.0)
    own = (rows * present[..., None]).sum((1, 2)) / 7  # two of three classes, one of one, none of one
    centre = joining.centre(MEAN, rows, present)
    assert_close(centre, (7 * MEAN + 7 * own) / 14)
    found = joining.directions(named, rows, present, centre)
    images = F.normalize(rows - centre[:, None, None], dim=-1)
    assert_close(found[:, 0], F.normalize(3 * named[:, 0] + images[:, 0].sum(1), dim=-1))
    assert_close(found[:, 1], F.normalize(3 * named[:, 1] + images[:, 1, 0], dim=-1))
    assert_close(found[:, 2], named[:, 2])


def test_what_is_not_there_changes_nothing(world):
    named, rows, present = task(world)
    joining = FusionWeights(1.0, 10.0)
    spoilt = torch.where(present[..., None] > 0, rows, 1e3)
    before, after = (
        joining.directions(named, each, present, joining.centre(MEAN, each, present)) for each in (rows, spoilt)
    )
    assert_close(before, after)


@pytest.mark.parametrize("shots", [[1, 1, 1, 1, 1], [3, 0, 1, 0, 0], [4] * 30])
def test_what_is_chosen_on_meta_val_is_worse_there_than_neither(shots, world):
    def named(context):
        return F.normalize(world.initialization.directions(context), dim=-1)

    known = torch.tensor(shots)
    best, found = select_fusion(named, world.val.of, world.initialization.table.mean, known, generator(0, "joined"))
    assert found[best] == max(found.values()) and found[best] >= max(found[NAMES_ONLY], found[IMAGES_ONLY])
    assert 1 / min(len(shots), 20) < found[NAMES_ONLY] < 1 and best not in (NAMES_ONLY, IMAGES_ONLY)
    again = select_fusion(named, world.val.of, world.initialization.table.mean, known, generator(0, "joined"))
    assert again == (best, found)


def test_useless_names_leave_the_images_alone_and_useless_images_the_names(world):
    def useless(context):
        return F.normalize(torch.randn(*context.means.shape[:2], 8, generator=generator(0, "noise")), dim=-1)

    mean, shots = world.initialization.table.mean, torch.tensor([5] * 5)
    best, _ = select_fusion(useless, world.val.of, mean, shots, generator(0, "joined"))
    assert best.name_weight <= 0.5

    def named(context):
        return F.normalize(world.initialization.directions(context), dim=-1)

    of = named_classes("val")
    noise = torch.randn(of.features.shape, generator=generator(0, "other"))
    few, _ = select_fusion(named, replace(of, features=of.features + 40 * noise), mean, shots, generator(0, "joined"))
    assert few.name_weight >= best.name_weight


def test_the_head_answers_as_its_directions(world):
    method = world.prepared("kernel_ridge")
    mean, context = world.initialization.table.mean, world.test.context(torch.arange(1))
    joiner = NameImageFusion(world.initialization.learner, method, mean, world.val.of)
    w = method.generate(context, generator=generator(0, "noise"))
    rows = [torch.randn(n, 8, generator=generator(0, "rows", n)) if n else None for n in (2, 0, 1, 3, 0)]
    joint, told = joiner(w, rows, 0)
    best, scores = select_fusion(
        joiner.name_directions, world.val.of, mean, torch.tensor([2, 0, 1, 3, 0]), generator(0, "joined")
    )
    padded = torch.zeros(1, 5, 3, 8)
    for n, each in enumerate(rows):
        if each is not None:
            padded[0, n, : len(each)] = each
    present = torch.arange(3) < torch.tensor([2, 0, 1, 3, 0])[:, None]
    centre = best.centre(mean, padded, present[None].float())
    directions = best.directions(joiner.name_directions(context), padded, present[None].float(), centre)
    query = world.test.batch(torch.arange(1)).query
    assert_close(
        world.initialization.learner.score(joint, query).double(),
        direction_accuracy(directions, query["inputs"] - centre[:, None], query["labels"]),
    )
    assert f"names alone have {100 * scores[NAMES_ONLY]:.1f} % right" in told
    assert math.isfinite(best.name_weight)
