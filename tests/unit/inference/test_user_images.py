"""One rule for all that holds an image: a picture in any form gives the same answer, and what may be two gives none."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import ltdi
from ltdi.datasets.image_files import read_images
from ltdi.inference.user_images import listed_of
from ltdi.utils.errors import InputError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return stream.getvalue()


def read_on(values: np.ndarray) -> io.BytesIO:
    """Open at its end, as it is when a picture has just been written."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return stream


def tensor(values: np.ndarray) -> torch.Tensor:
    """As torchvision has it, the channels first."""
    return torch.tensor(np.atleast_3d(values)).movedim(-1, 0)


TYPES = {
    **{f"{kind}": lambda v, k=kind: v.astype(k) for kind in ("uint8", "int16", "int32", "int64", "uint32", "uint64")},
    "uint16": lambda v: v.astype(np.uint16) * 257,
    **{f"{kind}": lambda v, k=kind: (v / 255).astype(k) for kind in ("float16", "float32", "float64")},
    "float32, rounded past white": lambda v: (v / 255).astype(np.float32) * np.float32(1.0001),
    "big-endian": lambda v: v.astype(">i4"),
}
FORMS = {
    "PIL": Image.fromarray,
    "bytes": png,
    "bytearray": lambda v: bytearray(png(v)),
    "BytesIO": lambda v: io.BytesIO(png(v)),
    "BytesIO at its end": read_on,
    "array, channels first": lambda v: np.moveaxis(np.atleast_3d(v), -1, 0),
    "array, a channel behind": np.atleast_3d,
    "array, not contiguous": lambda v: np.ascontiguousarray(v[::-1])[::-1],
    "tensor": tensor,
    "tensor, channels behind": lambda v: torch.tensor(np.atleast_3d(v)),
    "tensor of floats": lambda v: tensor(v).float() / 255,
    "tensor of halfs": lambda v: (tensor(v).float() / 255).half(),
    "tensor of int64": lambda v: tensor(v).long(),
    "tensor with a gradient": lambda v: (tensor(v).float() / 255).requires_grad_(),
} | {f"array of {name}": each for name, each in TYPES.items()}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (28, 28, 4), (56, 40), (105, 105, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_any_form_is_read_as_its_file_is(form, shape, mode, tmp_path):
    values = noise(*shape)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = read_images([tmp_path / "a.png"], mode=mode, size=28)
    for pictures in (FORMS[form](values), [FORMS[form](values)]):
        if len(shape) == 3 and isinstance(pictures, np.ndarray | torch.Tensor) and pictures.shape[0] in (3, 4):
            with pytest.raises(InputError, match="may be one image of . channels or . grey ones; put it into a list"):
                listed_of(pictures)
            continue
        assert read_images(listed_of(pictures), mode=mode, size=28).equal(expected)


def test_a_picture_in_a_file_that_is_open_a_zip_or_an_array_of_paths_is_read_as_its_file_is(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png(noise(28, 28)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(file, "a.png")
    expected = read_images([file], mode="L", size=28)
    with open(file, "rb") as opened:
        for pictures in (opened, zipfile.Path(tmp_path / "a.zip", "a.png"), np.array([str(file)]), str(file), [file]):
            assert read_images(listed_of(pictures), mode="L", size=28).equal(expected)


def test_black_and_white_are_those_of_a_file(tmp_path):
    values = noise(28, 28) > 127
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = read_images([tmp_path / "a.png"], mode="L", size=28)
    for each in (values, torch.from_numpy(values)):
        assert read_images([each], mode="L", size=28).equal(expected)


@pytest.mark.parametrize(
    "shape", [(5, 28, 28), (5, 1, 28, 28), (5, 28, 28, 1), (5, 3, 28, 28), (3, 28, 28, 3)], ids=str
)
@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy, lambda v: list(torch.from_numpy(v))])
def test_an_axis_more_is_several(form, shape):
    values = noise(*shape)
    one_by_one = [values[i] for i in range(len(values))]
    expected = read_images(one_by_one, mode="RGB", size=28)
    assert read_images(listed_of(form(values)), mode="RGB", size=28).equal(expected)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(
    "values, told",
    [
        (np.zeros(28, np.uint8), r"\(28,\) is no image"),
        (np.zeros((2, 5, 3, 28, 28), np.uint8), "is no image"),
        (np.zeros((4, 9, 28, 28), np.uint8), "is no image"),
        (np.zeros((0, 28), np.uint8), "is no image"),
        (np.zeros((3, 28, 28), np.uint8), "may be one image of 3 channels or 3 grey ones"),
        (np.zeros((3, 28, 3), np.uint8), "channels before or behind"),
        (np.zeros((9, 1, 28, 3), np.uint8), "channels before or behind"),
    ],
)
def test_shapes_that_are_no_image_or_two_are_one_line(kind, values, told):
    with pytest.raises(InputError, match=told) as error:
        listed_of(kind(values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "picture, told",
    [
        (noise(28, 28).astype(np.float32), "float32 numbers from 0 to 255, not from 0 to 1; scale them, or give uint8"),
        (noise(28, 28).astype(np.float32) / 127.5 - 1, "from -1 to 1, not from 0 to 1"),
        (np.full((28, 28), np.nan), "not from 0 to 1"),
        (noise(28, 28).astype(np.int32) * 257, "int32 numbers from 0 to 65535, not from 0 to 255"),
        (noise(28, 28).astype(np.int16) - 128, "from -128 to 127"),
        (noise(28, 28).astype(np.uint16), "up to 255, where white may be 255 or 65535"),
        (Image.fromarray(noise(28, 28).astype(np.int32)), "up to 255, where white may be 255 or 65535"),
        (Image.fromarray(noise(28, 28).astype(np.uint16)), "up to 255, where white may be 255 or 65535"),
        (noise(28, 28).astype(complex), "numbers of type complex128"),
        (torch.zeros(28, 28).to_sparse(), "sparse"),
        (noise(9, 28, 28), "is no image"),
        ([[0, 1], [1, 0]], "of type list"),
        (None, "of type NoneType"),
        (io.StringIO("a"), "of type StringIO"),
        (b"no image", "cannot read the image number 7"),
        (b"", "cannot read the image number 7"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_numbers_that_may_mean_two_things_and_what_is_no_image_are_one_line(picture, told):
    with pytest.raises(InputError, match=told) as error:
        read_images([picture], mode="L", size=28, first=7)
    assert "number 7" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("pictures", [None, 3, {"a": []}, np.array(3)], ids=repr)
def test_what_holds_no_images_is_one_line(pictures):
    with pytest.raises(InputError):
        listed_of(pictures)


def test_a_file_of_sixteen_dark_bits_is_read_as_it_says(tmp_path):
    values = noise(28, 28).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        for each in (tmp_path / "a.png", opened):
            assert read_images([each], mode="L", size=28).max() == 1


def test_every_form_of_the_same_pictures_makes_the_same_head_and_the_same_answers(task):
    run = ltdi.load(task.data)
    files = {place.name: sorted(place.iterdir()) for place in sorted(task.support.iterdir())}
    asked = sorted(task.query.rglob("*.png"))
    head = run.generate(files)
    expected = head.probabilities(asked)
    arrays = {name: [np.asarray(Image.open(file)) for file in some] for name, some in files.items()}
    for form in FORMS.values():
        made = run.generate({name: [form(each) for each in some] for name, some in arrays.items()})
        assert_close(made.w, head.w, rtol=0, atol=0)
        assert_close(head.probabilities([form(np.asarray(Image.open(file))) for file in asked]), expected)
    whole = torch.stack([tensor(np.asarray(Image.open(file))) for file in asked])
    assert_close(head.probabilities(whole), expected)
    answers = head.classify(whole)
    assert list(answers.image) == list(range(len(asked))) and (answers["class"] == head.classify(asked)["class"]).all()
    assert len(head.classify(arrays[next(iter(files))][0])) == 1


def test_of_which_class_an_image_cannot_be_read_is_said(task):
    run = ltdi.load(task.data)
    with pytest.raises(InputError, match="class 'b': cannot read the image number 1 .*up to 255"):
        run.generate({"a": noise(28, 28), "b": [noise(28, 28), noise(28, 28).astype(np.uint16)]})
