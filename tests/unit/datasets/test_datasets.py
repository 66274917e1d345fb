"""Sets of images: symmetries that make classes, and augmentation."""

import pytest
import torch
from image_sets import assert_one_line, by_class, dense
from torch.testing import assert_close

from ltdi.datasets import TRANSFORMS, ImageSet, augment, expand_classes, join, transform
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


def random_set(n_classes=3, n_images=2, channels=1, size=5, prefix="c"):
    shape = (n_classes, n_images, channels, size, size)
    images = torch.randint(256, shape, generator=generator(0, prefix, shape)).byte()
    return ImageSet.of(images, tuple(f"{prefix}{i}" for i in range(n_classes)))


def unequal_set(counts=(4, 2, 3), prefix="u", channels=1):
    images = random_set(1, sum(counts), channels=channels, prefix=prefix).images
    return ImageSet(images, tuple(f"{prefix}{i}" for i in range(len(counts))), counts)


def test_a_quarter_turn_goes_against_the_clock():
    image = torch.tensor([[1, 2], [3, 4]])
    assert transform(image, False, 1).tolist() == [[2, 4], [1, 3]]
    assert transform(image, True, 0).tolist() == [[2, 1], [4, 3]]


def test_symmetries_form_the_dihedral_group():
    image = torch.arange(9).reshape(3, 3)
    turned = image
    for _ in range(4):
        turned = transform(turned, False, 1)
    assert_close(turned, image)
    for turns in range(4):  # every reflection is its own inverse
        assert_close(transform(transform(image, True, turns), True, turns), image)

    group = {tuple(transform(image, *s).flatten().tolist()) for s in TRANSFORMS["dihedral"]}
    assert len(group) == 8
    products = {
        tuple(transform(transform(image, *a), *b).flatten().tolist())
        for a in TRANSFORMS["dihedral"]
        for b in TRANSFORMS["dihedral"]
    }
    assert products == group


@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_expanded_classes_are_transformed_copies(transforms):
    original = random_set()
    expanded = expand_classes(original, transforms)
    assert len(expanded.names) == len(set(expanded.names)) == 3 * len(TRANSFORMS[transforms])
    assert expanded.images.is_contiguous()
    for j, symmetry in enumerate(TRANSFORMS[transforms]):
        assert_close(dense(expanded)[3 * j : 3 * j + 3], transform(dense(original), *symmetry))


@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_expanded_classes_of_unequal_numbers_keep_theirs(transforms):
    original = unequal_set()
    expanded = by_class(expand_classes(original, transforms))
    for j, symmetry in enumerate(TRANSFORMS[transforms]):
        for c, images in enumerate(by_class(original).values()):
            assert_close(list(expanded.values())[3 * j + c], transform(images, *symmetry))


def test_expanded_names():
    assert expand_classes(random_set(1), "rotations").names == ("c0", "c0/r90", "c0/r180", "c0/r270")
    assert expand_classes(random_set(1), "mirrored").names == ("c0/m0", "c0/m90", "c0/m180", "c0/m270")
    assert expand_classes(random_set(2), "none").names == ("c0", "c1")


def test_rotating_twice_would_repeat_classes():
    with pytest.raises(InputError) as error:
        expand_classes(expand_classes(random_set(1), "rotations"), "rotations")
    assert_one_line(error, "'c0/r90'")


def test_unknown_transforms():
    with pytest.raises(InputError) as error:
        expand_classes(random_set(), "flips")
    assert_one_line(error, "'flips'", *TRANSFORMS)


def test_join_keeps_both_with_all_their_images():
    a, b = random_set(3, 4, prefix="a"), unequal_set()
    joined = join(a, b)
    assert joined.names == a.names + b.names and joined.counts == (4, 4, 4, 4, 2, 3)
    for name, images in by_class(joined).items():
        assert images.equal((by_class(a) | by_class(b))[name])


def test_the_places_of_a_set_are_those_of_its_classes():
    images = unequal_set()
    first, counts = images.places
    assert (first.tolist(), counts.tolist()) == ([0, 4, 6], [4, 2, 3])
    for name, begin, count in zip(images.names, first, counts, strict=True):
        assert images.images[begin : begin + count].equal(by_class(images)[name])


def test_equally_many_images_are_a_set_of_any():
    images = torch.randint(256, (3, 2, 1, 5, 5), generator=generator(0, "dense")).byte()
    flat = ImageSet.of(images, ("a", "b", "c"))
    assert flat.counts == (2, 2, 2) and dense(flat).equal(images)


def test_a_class_of_a_single_image_is_refused():
    with pytest.raises(InputError) as error:
        unequal_set((4, 1, 3))
    assert_one_line(error, "'u1'", "1 image;")


def test_join_refuses_equal_names_and_different_sizes():
    with pytest.raises(InputError) as error:
        join(random_set(), random_set())
    assert_one_line(error, "'c0'")
    with pytest.raises(InputError) as error:
        join(random_set(), random_set(channels=3, prefix="b"))
    assert_one_line(error, "(1, 5, 5)", "(3, 5, 5)")


STILL = dict(max_rotation=0.0, max_shift=0.0, max_scale=0.0, max_shear=0.0)
DISC_SIZE = 41


def disc(n_images, radius=8, x=0):
    """Images of a disc with its centre ``x`` pixels right of theirs: the ink's moments show the affine map."""
    axis = torch.arange(DISC_SIZE) - DISC_SIZE // 2.0
    distance = (axis[:, None] ** 2 + (axis - x) ** 2).sqrt()
    return (radius + 0.5 - distance).clamp(0, 1).expand(n_images, 1, -1, -1)


def moments(images):
    """Area (M,), centre (M, 2) and covariance (M, 2, 2) of the ink, in pixels, x before y."""
    axis = torch.arange(DISC_SIZE) - DISC_SIZE // 2.0
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    ink = images.reshape(len(images), -1)
    area = ink.sum(1)
    centre = ink @ grid / area[:, None]
    offset = grid - centre[:, None]
    covariance = torch.einsum("mp,mpi,mpj->mij", ink, offset, offset) / area[:, None, None]
    return area, centre, covariance


def test_augment_without_ranges_is_the_identity():
    images = torch.rand(4, 3, 9, 9, generator=generator(0, "images"))
    assert_close(augment(images, generator=generator(0, "a"), **STILL), images)


def test_augment_depends_on_the_generator_alone():
    ranges = dict(max_rotation=20.0, max_shift=0.1, max_scale=0.2, max_shear=0.1)
    images = torch.rand(4, 1, 9, 9, generator=generator(0, "images"))
    first = augment(images, generator=generator(0, "a"), **ranges)
    assert_close(augment(images, generator=generator(0, "a"), **ranges), first)
    assert not torch.allclose(augment(images, generator=generator(0, "b"), **ranges), first)
    assert not torch.allclose(first[0], images[0], atol=1e-2)


def test_rotation_stays_in_its_range_and_keeps_the_distance():
    turned = augment(disc(200, radius=4, x=12), generator=generator(0, "a"), **{**STILL, "max_rotation": 30.0})
    area, centre, _ = moments(turned)
    assert_close(area, moments(disc(200, radius=4))[0], rtol=1e-2, atol=0)
    assert_close(centre.norm(dim=1), torch.full((200,), 12.0), atol=0.05, rtol=0)
    angle = torch.atan2(centre[:, 1], centre[:, 0]).rad2deg()
    assert -30.1 < angle.min() < -28
    assert 28 < angle.max() < 30.1


def test_shift_stays_in_its_range_and_keeps_the_shape():
    area, centre, covariance = moments(disc(200))
    moved = moments(augment(disc(200), generator=generator(0, "a"), **{**STILL, "max_shift": 0.2}))
    assert_close(moved[0], area, rtol=1e-3, atol=0)
    assert 0.18 * DISC_SIZE < moved[1].abs().max() <= 0.2 * DISC_SIZE
    assert moved[1].mean(0).abs().max() < 0.05 * DISC_SIZE


def test_scale_stays_in_its_range_along_each_axis():
    _, _, covariance = moments(disc(200))
    _, _, scaled = moments(augment(disc(200), generator=generator(0, "a"), **{**STILL, "max_scale": 0.25}))
    ratio = (scaled.diagonal(dim1=1, dim2=2) / covariance.diagonal(dim1=1, dim2=2)).sqrt()
    assert 1 / 1.27 < ratio.min() < 1 / 1.2
    assert 1 / 0.8 < ratio.max() < 1 / 0.73
    assert ratio.diff(dim=1).abs().max() > 0.2  # the axes differ


def test_shear_keeps_the_area():
    area, _, _ = moments(disc(50))
    sheared, _, covariance = moments(augment(disc(50), generator=generator(0, "a"), **{**STILL, "max_shear": 0.3}))
    assert_close(sheared, area, rtol=2e-2, atol=0)
    # x' = x + shear * y: the slant of the ink is the shear itself
    slant = (covariance[:, 0, 1] / covariance[:, 1, 1]).abs()
    assert 0.25 < slant.max() < 0.32
