"""Glyphs: drawn characters that depend on the seed alone."""

import pytest
import torch
from image_sets import assert_one_line, dense, pixel_accuracy

from ltdi.datasets import SPLITS, glyphs
from ltdi.utils.errors import InputError


@pytest.fixture(scope="module")
def default_glyphs():
    return glyphs.load()


def test_glyphs_have_the_shape_that_they_promise(default_glyphs):
    assert [tuple(dense(default_glyphs[split]).shape) for split in SPLITS] == [
        (n, 20, 1, 28, 28) for n in (300, 75, 125)
    ]
    names = [name for split in SPLITS for name in default_glyphs[split].names]
    assert len(set(names)) == 500


def test_glyphs_are_bright_ink_on_black(default_glyphs):
    for split in SPLITS:
        images = default_glyphs[split].images.float().div(255).flatten(1)
        assert (images.amax(-1) > 0.9).all()  # no empty image
        assert images.median() == 0
        assert 0.03 < images.mean() < 0.15


def test_glyphs_depend_on_the_seed_alone():
    first, again, other = (glyphs.load(n_classes=40, n_images=3, seed=seed) for seed in (1, 1, 2))
    for split in SPLITS:
        assert torch.equal(first[split].images, again[split].images)
        assert not torch.equal(first[split].images, other[split].images)


def test_glyphs_do_not_repeat_themselves(default_glyphs):
    images = torch.cat([default_glyphs[split].images for split in SPLITS]).flatten(1)
    assert len(images) == 10_000
    assert len(images.unique(dim=0)) == 10_000


def test_glyphs_are_neither_trivial_nor_noise(default_glyphs):
    """Five classes, one example each, the nearest example in pixel space: chance is 0.2, Omniglot is at 0.47."""
    assert 0.4 < pixel_accuracy(default_glyphs["meta_test"]) < 0.65


@pytest.mark.parametrize("wrong", [{"n_classes": 10}, {"n_images": 1}])
def test_too_few_glyphs(wrong):
    with pytest.raises(InputError) as error:
        glyphs.load(**wrong)
    assert_one_line(error, *wrong, *wrong.values(), "40 classes")
