"""Data sets: symmetries that make classes, augmentation, drawn glyphs, and readers that say what is wrong."""

import csv
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ltdi.datasets import (
    DATASETS,
    SPLITS,
    TRANSFORMS,
    ImageSet,
    augment,
    expand_classes,
    glyphs,
    join,
    mini_imagenet,
    omniglot,
    to_float,
    transform,
)
from ltdi.errors import InputError
from ltdi.seeding import generator

REAL_DATA = Path(os.environ.get("LTDI_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))


def random_set(n_classes=3, n_images=2, channels=1, size=5, prefix="c"):
    shape = (n_classes, n_images, channels, size, size)
    images = torch.randint(256, shape, generator=generator(0, prefix, shape)).byte()
    return ImageSet.of(images, tuple(f"{prefix}{i}" for i in range(n_classes)))


def unequal_set(counts=(4, 2, 3), prefix="u", channels=1):
    images = random_set(1, sum(counts), channels=channels, prefix=prefix).images
    return ImageSet(images, tuple(f"{prefix}{i}" for i in range(len(counts))), counts)


def by_class(image_set):
    """Class name to its images (n, channels, height, width)."""
    return dict(zip(image_set.names, image_set.images.split(image_set.counts), strict=True))


def dense(image_set):
    """Images (classes, images a class, channels, height, width) of a set that has equally many of each."""
    (n_images,) = set(image_set.counts)
    return image_set.images.unflatten(0, (-1, n_images))


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, f"{part!r} is not in {message!r}"


# --- symmetries and sets


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


def test_to_float_covers_0_to_1():
    assert_close(to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))


# --- augmentation

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


# --- glyphs


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
        images = to_float(default_glyphs[split].images).flatten(1)
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


def pixel_accuracy(image_set, n_tasks=300):
    images = to_float(dense(image_set)).flatten(2)
    draws = generator(0, "pixel accuracy")
    right = []
    for _ in range(n_tasks):
        task = images[torch.randperm(len(images), generator=draws)[:5]]
        task = task[:, torch.randperm(task.shape[1], generator=draws)]
        nearest = torch.cdist(task[:, 1:].flatten(0, 1), task[:, 0]).argmin(1)
        right.append(nearest.view(5, -1) == torch.arange(5)[:, None])
    return torch.stack(right).float().mean()


@pytest.mark.parametrize("wrong", [{"n_classes": 10}, {"n_images": 1}])
def test_too_few_glyphs(wrong):
    with pytest.raises(InputError) as error:
        glyphs.load(**wrong)
    assert_one_line(error, *wrong, *wrong.values(), "40 classes")


# --- Omniglot


def write_png(path, value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((105, 105), value, np.uint8)).convert("1").save(path)


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch):
    """Three characters in one half and two in the other, two drawings each, read by a loader that expects so many."""
    monkeypatch.setattr(omniglot, "N_CLASSES", {"images_background": 3, "images_evaluation": 2})
    monkeypatch.setattr(omniglot, "N_IMAGES", 2)
    monkeypatch.setattr(omniglot, "SPLIT_SIZES", (2, 1, 2))
    for half, alphabet, n_classes in (("images_background", "Alpha", 3), ("images_evaluation", "Beta", 2)):
        for i in range(n_classes):
            for j in range(2):
                write_png(tmp_path / half / alphabet / f"character{i:02d}" / f"{i:04d}_{j:02d}.png")
    return tmp_path


def zip_folder(folder):
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)
    return folder.with_suffix(".zip")


def test_omniglot_ink_is_bright(small_omniglot):
    write_png(small_omniglot / "images_background/Alpha/character01/0001_00.png", value=0)
    data = omniglot.load(small_omniglot)
    means = {name: x for s in data.values() for name, x in zip(s.names, dense(s).float().mean((2, 3, 4)).tolist())}
    assert means.pop("Alpha/character01") == [255, 0]
    assert all(mean == [0, 0] for mean in means.values())


def test_omniglot_as_zips_or_folders_at_either_place(small_omniglot):
    write_png(small_omniglot / "images_evaluation/Beta/character01/0001_01.png", value=0)
    as_folders = omniglot.load(small_omniglot)
    zip_folder(small_omniglot / "images_evaluation")
    half_zipped = omniglot.load(small_omniglot)
    zip_folder(small_omniglot / "images_background")
    (small_omniglot / "omniglot-py").mkdir()
    for file in small_omniglot.glob("*.zip"):
        file.rename(small_omniglot / "omniglot-py" / file.name)
    as_zips = omniglot.load(small_omniglot)
    for split in SPLITS:
        assert as_folders[split].names == half_zipped[split].names == as_zips[split].names
        assert torch.equal(as_folders[split].images, as_zips[split].images)


def test_omniglot_missing(tmp_path):
    with pytest.raises(InputError) as error:
        omniglot.load(tmp_path / "nowhere")
    assert_one_line(error, tmp_path / "nowhere", "images_background", "images_evaluation", "https://", "download")


def test_omniglot_with_half_missing(small_omniglot):
    shutil.rmtree(small_omniglot / "images_evaluation")
    with pytest.raises(InputError) as error:
        omniglot.load(small_omniglot)
    assert_one_line(error, f"no images_evaluation in {small_omniglot}")


def test_omniglot_with_a_class_missing(small_omniglot):
    shutil.rmtree(small_omniglot / "images_background/Alpha/character01")
    with pytest.raises(InputError) as error:
        omniglot.load(small_omniglot)
    assert_one_line(error, small_omniglot / "images_background", "holds 2 characters", "has 3")


def test_omniglot_with_an_image_missing(small_omniglot):
    (small_omniglot / "images_evaluation/Beta/character00/0000_01.png").unlink()
    with pytest.raises(InputError) as error:
        omniglot.load(small_omniglot)
    assert_one_line(error, "images_evaluation/Beta/character00", "holds 1 images", "has 2")


def test_omniglot_with_an_unreadable_image(small_omniglot):
    file = small_omniglot / "images_background/Alpha/character01/0001_00.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InputError) as error:
        omniglot.load(small_omniglot)
    assert_one_line(error, file)


def test_omniglot_with_a_truncated_zip(small_omniglot):
    file = zip_folder(small_omniglot / "images_background")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError) as error:
        omniglot.load(small_omniglot)
    assert_one_line(error, file, "incomplete")


def test_omniglot_with_a_damaged_member_of_a_zip(small_omniglot):
    file = zip_folder(small_omniglot / "images_background")
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith("0001_00.png"))
    data_starts = member.header_offset + 30 + len(member.filename)
    content[data_starts + 20 : data_starts + 40] = bytes(20)
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        omniglot.load(small_omniglot)
    assert_one_line(error, file, "0001_00.png")


def test_omniglot_download_that_fails(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.Omniglot", offline)
    with pytest.raises(InputError) as error:
        omniglot.load(tmp_path, download=True)
    assert_one_line(error, tmp_path, "no network")


# --- mini-ImageNet


@pytest.fixture
def small_mini_imagenet(tmp_path):
    """Two classes a split with three images each; the images of class ``train1`` are larger than the loader's."""
    root = tmp_path / "mini-imagenet"
    (root / "images").mkdir(parents=True)
    for split in ("train", "val", "test"):
        rows = []
        for label in (f"{split}0", f"{split}1"):
            for j in range(3):
                size = 120 if label == "train1" else 84
                Image.new("RGB", (size, size), (200, 10 * j, 0)).save(root / "images" / f"{label}_{j}.jpg")
                rows.append((f"{label}_{j}.jpg", label))
        write_table(root / f"{split}.csv", rows)
    return root


def write_table(path, rows, header=("filename", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_mini_imagenet_reads_what_the_tables_list(small_mini_imagenet):
    data = mini_imagenet.load(small_mini_imagenet.parent)
    assert data["meta_train"].names == ("train0", "train1")
    assert data["meta_test"].names == ("test0", "test1")
    for split in SPLITS:
        assert dense(data[split]).shape == (2, 3, 3, 84, 84)
        colours = dense(data[split]).float().mean((3, 4))
        expected = torch.tensor([[200.0, 10.0 * j, 0.0] for j in range(3)]).expand(2, 3, 3)
        assert_close(colours, expected, atol=3, rtol=0)  # JPEG


def test_mini_imagenet_at_another_size(small_mini_imagenet):
    data = mini_imagenet.load(small_mini_imagenet, size=42)
    assert all(dense(data[split]).shape == (2, 3, 3, 42, 42) for split in SPLITS)


def test_mini_imagenet_as_a_zip(small_mini_imagenet):
    as_folder = mini_imagenet.load(small_mini_imagenet)
    zip_folder(small_mini_imagenet / "images")
    as_zip = mini_imagenet.load(small_mini_imagenet)
    for split in SPLITS:
        assert torch.equal(as_folder[split].images, as_zip[split].images)


def test_mini_imagenet_missing(tmp_path):
    with pytest.raises(InputError) as error:
        mini_imagenet.load(tmp_path)
    assert_one_line(error, tmp_path, "images.zip", "Ravi & Larochelle")


def test_mini_imagenet_cannot_be_downloaded(tmp_path):
    with pytest.raises(InputError) as error:
        mini_imagenet.load(tmp_path, download=True)
    assert_one_line(error, "terms of ImageNet", "Ravi & Larochelle", tmp_path)


def test_mini_imagenet_without_a_table(small_mini_imagenet):
    (small_mini_imagenet / "val.csv").unlink()
    with pytest.raises(InputError) as error:
        mini_imagenet.load(small_mini_imagenet)
    assert_one_line(error, small_mini_imagenet / "val.csv")


def test_mini_imagenet_with_other_columns(small_mini_imagenet):
    write_table(small_mini_imagenet / "val.csv", [("a.jpg", "x")], header=("file", "class"))
    with pytest.raises(InputError) as error:
        mini_imagenet.load(small_mini_imagenet)
    assert_one_line(error, small_mini_imagenet / "val.csv", "['file', 'class']", "filename,label")


def test_mini_imagenet_with_an_empty_table(small_mini_imagenet):
    write_table(small_mini_imagenet / "val.csv", [])
    with pytest.raises(InputError) as error:
        mini_imagenet.load(small_mini_imagenet)
    assert_one_line(error, small_mini_imagenet / "val.csv", "no images")


def test_mini_imagenet_with_images_missing(small_mini_imagenet):
    for j in (1, 2):
        (small_mini_imagenet / "images" / f"test0_{j}.jpg").unlink()
    with pytest.raises(InputError) as error:
        mini_imagenet.load(small_mini_imagenet)
    assert_one_line(error, "2 of the 6", small_mini_imagenet / "test.csv", "'test0_1.jpg'")


def test_mini_imagenet_with_unequal_classes(small_mini_imagenet):
    rows = [(f"train{c}_{j}.jpg", f"train{c}") for c, n in ((0, 3), (1, 2)) for j in range(n)]
    whole = by_class(mini_imagenet.load(small_mini_imagenet)["meta_val"])
    write_table(small_mini_imagenet / "train.csv", rows)
    data = mini_imagenet.load(small_mini_imagenet)
    assert data["meta_train"].counts == (3, 2)
    green = [images.float().mean((2, 3))[:, 1].tolist() for images in by_class(data["meta_train"]).values()]
    assert green == [pytest.approx([0, 10, 20], abs=3), pytest.approx([0, 10], abs=3)]  # JPEG
    for name, images in by_class(data["meta_val"]).items():
        assert images.equal(whole[name])


def test_mini_imagenet_with_a_class_of_one_image(small_mini_imagenet):
    rows = [("train0_0.jpg", "train0"), ("train1_0.jpg", "train1"), ("train0_1.jpg", "train0")]
    write_table(small_mini_imagenet / "train.csv", rows)
    with pytest.raises(InputError) as error:
        mini_imagenet.load(small_mini_imagenet)
    assert_one_line(error, "'train1'", "1 image;")


def test_mini_imagenet_with_a_corrupt_image(small_mini_imagenet):
    file = small_mini_imagenet / "images/val1_2.jpg"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(InputError) as error:
        mini_imagenet.load(small_mini_imagenet)
    assert_one_line(error, file)


# --- files as the data set's images


@pytest.mark.parametrize("name", DATASETS)
def test_files_are_read_as_the_data_sets_images_are(name, tmp_path):
    """Ink on paper is 255 on 0 where the data set has it so; what is shown again is the file."""
    data_set = DATASETS[name]
    values = [0, 60, 255]
    for value in values:
        Image.new("RGB", (20, 20), (value,) * 3).save(tmp_path / f"{value:03d}.png")
    files = sorted(tmp_path.glob("*.png"))
    images = data_set.read(files, 28)
    assert images.shape == (3, len(data_set.mode), 28, 28) and images.dtype == torch.uint8
    expected = [255 - value for value in values] if data_set.on_paper else values
    assert images[:, 0, 5, 5].tolist() == expected
    assert data_set.as_files(images)[:, 0, 5, 5].tolist() == values
    assert data_set.as_files(data_set.as_files(images)).equal(images)


def test_an_omniglot_drawing_is_read_from_its_file_as_the_data_set_has_it(small_omniglot):
    write_png(small_omniglot / "images_background/Alpha/character01/0001_00.png", value=0)
    found = {name: images for s in omniglot.load(small_omniglot).values() for name, images in by_class(s).items()}
    files = sorted((small_omniglot / "images_background/Alpha/character01").glob("*.png"))
    assert DATASETS["omniglot"].read(files, omniglot.SIZE).equal(found["Alpha/character01"])


# --- the real data, where it is


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "omniglot-py").is_dir(), reason=f"no omniglot-py in {REAL_DATA}")
def test_real_omniglot():
    data = DATASETS["omniglot"].load(REAL_DATA)
    assert [tuple(dense(data[split]).shape) for split in SPLITS] == [(n, 20, 1, 28, 28) for n in (800, 400, 423)]
    assert len({name for split in SPLITS for name in data[split].names}) == 1623
    images = to_float(data["meta_val"].images).flatten(1)
    assert 0.03 < images.mean() < 0.15
    assert (images.amax(-1) > 0.5).float().mean() > 0.999  # a few drawings are hardly more than a dot
    assert 0.4 < pixel_accuracy(data["meta_test"]) < 0.55


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "mini-imagenet").is_dir(), reason=f"no mini-imagenet in {REAL_DATA}")
def test_real_mini_imagenet():
    data = DATASETS["mini_imagenet"].load(REAL_DATA)
    assert [len(data[split].names) for split in SPLITS] == [64, 16, 20]
    assert len({name for split in SPLITS for name in data[split].names}) == 100
    for split in SPLITS:
        assert data[split].images.shape[1:] == (3, 84, 84)
        assert 0.3 < to_float(data[split].images).mean() < 0.6
