"""Omniglot: as its authors lay it down, and a reader that says what is wrong."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from image_sets import REAL_DATA, assert_one_line, by_class, dense, pixel_accuracy, zip_folder
from PIL import Image

from ltdi.datasets import DATASETS, SPLITS, omniglot
from ltdi.utils.errors import InputError


def write_png(path, value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((105, 105), value, np.uint8)).convert("1").save(path)


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch):
    """Three characters in one half and two in the other, two drawings each, read by a loader that expects so many."""
    monkeypatch.setattr(omniglot, "CHARACTERS", {"images_background": 3, "images_evaluation": 2})
    monkeypatch.setattr(omniglot, "N_IMAGES", 2)
    monkeypatch.setattr(omniglot, "SPLIT_SIZES", (2, 1, 2))
    for half, alphabet, n_classes in (("images_background", "Alpha", 3), ("images_evaluation", "Beta", 2)):
        for i in range(n_classes):
            for j in range(2):
                write_png(tmp_path / half / alphabet / f"character{i:02d}" / f"{i:04d}_{j:02d}.png")
    return tmp_path


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


def test_an_omniglot_drawing_is_read_from_its_file_as_the_data_set_has_it(small_omniglot):
    write_png(small_omniglot / "images_background/Alpha/character01/0001_00.png", value=0)
    found = {name: images for s in omniglot.load(small_omniglot).values() for name, images in by_class(s).items()}
    files = sorted((small_omniglot / "images_background/Alpha/character01").glob("*.png"))
    assert DATASETS["omniglot"].read(files, omniglot.SIZE).equal(found["Alpha/character01"])


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "omniglot-py").is_dir(), reason=f"no omniglot-py in {REAL_DATA}")
def test_real_omniglot():
    data = DATASETS["omniglot"].load(REAL_DATA)
    assert [tuple(dense(data[split]).shape) for split in SPLITS] == [(n, 20, 1, 28, 28) for n in (800, 400, 423)]
    assert len({name for split in SPLITS for name in data[split].names}) == 1623
    images = data["meta_val"].images.float().div(255).flatten(1)
    assert 0.03 < images.mean() < 0.15
    assert (images.amax(-1) > 0.5).float().mean() > 0.999  # a few drawings are hardly more than a dot
    assert 0.4 < pixel_accuracy(data["meta_test"]) < 0.55
