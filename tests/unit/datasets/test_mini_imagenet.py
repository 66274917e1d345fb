"""mini-ImageNet: what its tables list, and a reader that says what is wrong."""

import csv

import pytest
import torch
from image_sets import REAL_DATA, assert_one_line, by_class, dense, zip_folder
from PIL import Image
from torch.testing import assert_close

from ltdi.datasets import DATASETS, SPLITS, mini_imagenet
from ltdi.utils.errors import InputError


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
    assert_one_line(error, small_mini_imagenet / "val.csv", "no rows")


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


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "mini-imagenet").is_dir(), reason=f"no mini-imagenet in {REAL_DATA}")
def test_real_mini_imagenet():
    data = DATASETS["mini_imagenet"].load(REAL_DATA)
    assert [len(data[split].names) for split in SPLITS] == [64, 16, 20]
    assert len({name for split in SPLITS for name in data[split].names}) == 100
    for split in SPLITS:
        assert data[split].images.shape[1:] == (3, 84, 84)
        assert 0.3 < data[split].images.float().div(255).mean() < 0.6
