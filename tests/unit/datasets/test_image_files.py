"""Files that are no images, or too large ones, and images of many kinds as a person sees them."""

import os
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from ltdi.datasets import image_files
from ltdi.datasets.image_files import find_images, read_images
from ltdi.inference.class_names import different
from ltdi.utils.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.new("L", (8, 8), 200).save(tmp_path / "set" / "a" / "0.png")
    return tmp_path / "set"


def test_a_pipe_and_a_broken_link_are_named_and_not_waited_for(folder):
    (folder / "a" / "notes.txt").symlink_to("nowhere")
    assert list(find_images(folder)) == ["a/0.png"]
    os.mkfifo(folder / "a" / "1.png")
    with pytest.raises(InputError, match="1.png: a broken link or no regular file"):
        find_images(folder)
    (folder / "a" / "1.png").unlink()
    (folder / "a" / "2.JPG").symlink_to("nowhere")
    with pytest.raises(InputError, match="2.JPG: a broken link"):
        find_images(folder)


def test_links_to_folders_are_followed_but_in_a_circle(folder):
    (folder / "b").symlink_to(folder / "a")
    assert list(find_images(folder)) == ["a/0.png", "b/0.png"]
    (folder / "a" / "up").symlink_to(folder)
    with pytest.raises(InputError, match="up: a link to a folder that it lies in; move the link elsewhere"):
        find_images(folder)


def test_a_picture_of_too_many_pixels_is_not_opened(folder, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_PIXELS", 63)
    with pytest.raises(InputError, match=r"0.png: 8 × 8 pixels, and images of at most 63 are read; make it smaller"):
        read_images([folder / "a" / "0.png"], mode="L", size=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    with pytest.raises(InputError, match="0.png: too many pixels"):
        read_images([folder / "a" / "0.png"], mode="L", size=8)


def test_a_file_that_is_too_large_is_not_read_whether_it_lies_in_a_folder_or_in_a_zip(folder, monkeypatch):
    file = folder / "a" / "0.png"
    with zipfile.ZipFile(folder.parent / "other.zip", "w") as archive:
        archive.write(file, "a/0.png")
    (packed,) = find_images(folder.parent / "other").values()
    read_images([file, packed], mode="L", size=8)
    monkeypatch.setattr(image_files, "MOST_BYTES", file.stat().st_size - 1)
    for each in (file, packed):
        with pytest.raises(InputError, match="0.png: 0 MB, and images of at most 0 are read"):
            read_images([each], mode="L", size=8)


def test_what_is_clear_in_16_bits_is_white(tmp_path):
    values = np.array([[0, 65535], [32768, 256]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "b.png", transparency=0)
    both = read_images([tmp_path / "a.png", tmp_path / "b.png"], mode="L", size=2)
    assert both.flatten(1).tolist() == [[0, 255, 128, 1], [255, 255, 128, 1]]


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\xff" * 18])
def test_no_zip_is_named(tmp_path, content):
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(InputError, match="set.zip is no zip file or an incomplete one .*; get it again"):
        find_images(tmp_path / "set")


# --- of which kind a picture is


def test_inks_are_the_colours_that_they_print(tmp_path):
    """CMYK, of which nothing is white and all of black is black."""
    inks = Image.new("CMYK", (4, 2), (0, 0, 0, 0))
    inks.paste((0, 0, 0, 255), (0, 0, 1, 2))
    inks.paste((0, 255, 255, 0), (1, 0, 2, 2))
    inks.save(tmp_path / "inks.tiff")
    (seen,) = read_images([tmp_path / "inks.tiff"], mode="RGB", size=4)
    assert seen[:, 0, 3].tolist() == [255, 255, 255] and seen[:, 0, 0].tolist() == [0, 0, 0]
    assert seen[:, 0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png", "pages.tiff"])
def test_of_an_animation_the_first_picture_is_taken(name, tmp_path):
    first, second = Image.new("RGB", (8, 8), (250, 250, 250)), Image.new("RGB", (8, 8), (5, 5, 5))
    options = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / name) as kept:
        assert kept.n_frames == 2
    (seen,) = read_images([tmp_path / name], mode="RGB", size=8)
    assert (seen.int() - 250).abs().max() <= 1


def test_a_clear_colour_of_a_palette_is_white(tmp_path):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.paste(1, (0, 0, 2, 4))
    picture.save(tmp_path / "a.png", transparency=0)
    (seen,) = read_images([tmp_path / "a.png"], mode="RGB", size=4)
    assert seen[:, 0, 3].tolist() == [255, 255, 255] and seen[:, 0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kept", [0.0, 0.5], ids=["empty", "cut"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp"])
def test_an_empty_or_broken_file_is_one_line(name, kept, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match="get it again") as caught:
        read_images([tmp_path / name], mode="RGB", size=8)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_two_files_of_one_name_in_a_zip_are_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, about the second
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for content in (b"one", b"other"):
                archive.writestr("a/0.png", content)
    with pytest.raises(InputError, match=r"set.zip: two files are named a/0.png; .*"):
        find_images(tmp_path / "set")


def test_an_image_of_a_kind_that_is_not_read_and_a_folder_named_as_one_are_not_passed_over(folder):
    (folder / "a" / "1.HEIC").touch()
    with pytest.raises(InputError, match="a/1.HEIC: images of this kind are not read; save it as PNG, and move"):
        find_images(folder)
    (folder / "a" / "1.HEIC").unlink()
    (folder / "a" / "2.png").mkdir()
    with pytest.raises(InputError, match="2.png: a folder named as an image, and empty; move it elsewhere"):
        find_images(folder)


@pytest.mark.parametrize("name", ["/a.png", "set/../../a.png", r"set\\a\\1.png", "other/0.png"])
def test_an_image_that_a_zip_has_elsewhere_is_not_passed_over(folder, tmp_path, name):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for each in ("set/a/0.png", "__MACOSX/a/0.png", "set/notes.txt", name):
            archive.write(folder / "a" / "0.png", each)
    folder.rename(tmp_path / "away")
    with pytest.raises(InputError, match="set.zip: .* lies outside of set/; pack the folder again"):
        find_images(folder)


def test_names_that_look_the_same_are_not_different():
    assert different(["\u00e9", "e\u0301", "e"]) == 2 and different(["a", "A"]) == 2


@pytest.mark.parametrize("kind", ["damaged", "encrypted", "Deflate64"])
def test_a_zip_that_cannot_be_unpacked_is_one_line(kind, tmp_path):
    """To look at the images, and to name them by their bytes."""
    place, image = tmp_path / "set.zip", np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "0.bmp")
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "0.bmp", "a/0.bmp")
    content = bytearray(place.read_bytes())
    central, local = content.rindex(b"PK\x01\x02"), content.index(b"PK\x03\x04")
    if kind == "damaged":
        content[local + 60 : local + 90] = bytes(30)
    elif kind == "encrypted":
        content[central + 8] |= 1
        content[local + 6] |= 1
    else:
        content[central + 10] = content[local + 8] = 9
    place.write_bytes(content)
    images = tuple(find_images(tmp_path / "set").values())
    expected = "^[^\n]*a/0.bmp: cannot be unpacked [^\n]*; unpack the zip with another program, and name the folder$"
    for look in (lambda: read_images(images, mode="L", size=8), lambda: image_files.Streamed(images, "L", 8).name):
        with pytest.raises(InputError, match=expected):
            look()
