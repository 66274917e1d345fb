"""How folders are read: the top level is the class, and what looks like something else is said."""

import shutil
import warnings
from pathlib import Path

import pytest
from command import call, refused
from PIL import Image

import ltdi
from ltdi.inference.class_names import by_folder
from ltdi.utils.errors import InputError, Remark


@pytest.fixture
def make(tmp_path):
    def make(*files: str) -> Path:
        for file in files:
            (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 200).save(tmp_path / "root" / file)
        return tmp_path / "root"

    return make


def read(root: Path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = by_folder(root)
    assert all(each.category is Remark for each in told)
    return {name: len(files) for name, files in found.items()}, [str(each.message) for each in told]


@pytest.mark.parametrize(
    "files, classes",
    [
        (["cat/0.png", "dog/0.png"], {"cat": 1, "dog": 1}),
        (["cat/images/0.png", "cat/images/1.png", "dog/images/0.png"], {"cat": 2, "dog": 1}),
        (["train/0.png", "test/0.png"], {"train": 1, "test": 1}),
        (["train/0.png", "bus/side/0.png"], {"train": 1, "bus": 1}),
        (["train/side/0.png", "bus/0.png"], {"train": 1, "bus": 1}),
    ],
)
def test_the_top_level_is_the_class(files, classes, make):
    assert read(make(*files)) == (classes, [])


@pytest.mark.parametrize(
    "files, classes",
    [
        (["cat/a/0.png", "cat/b/0.png", "dog/0.png"], {"cat": 2, "dog": 1}),
        (["cat/a/0.png", "cat/b/c/0.png", "cat/1.png", "dog/a/0.png", "dog/b/0.png"], {"cat": 3, "dog": 2}),
    ],
)
def test_folders_below_a_class_are_of_it_and_that_is_said(files, classes, make):
    found, (line,) = read(make(*files))
    assert found == classes
    assert "a class is all that lies in one of its folders" in line and "root/cat holds a, b: to tell these" in line


@pytest.mark.parametrize("parts", [("train", "test"), ("Train", "val", "TEST"), ("support", "query"), ("train",)])
def test_parts_of_a_data_set_are_no_classes(parts, make):
    root = make(*(f"{part}/{name}/0.png" for part in parts for name in ("cat", "dog")))
    with pytest.raises(InputError, match=f"parts of a data set and no classes; name the folder .* {root}/") as error:
        by_folder(root)
    assert "\n" not in str(error.value)
    assert set(by_folder(root / parts[0])) == {"cat", "dog"}


def test_a_part_beside_classes_is_none(make):
    root = make("train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "bus/0.png")
    with pytest.raises(InputError, match="parts of a data set"):
        by_folder(root)


def test_of_one_class_with_folders_below_these_are_named(make):
    with pytest.raises(
        InputError, match="images of 1 classes; .*root/animals holds cat, dog: to tell these apart, name"
    ):
        by_folder(make("animals/cat/0.png", "animals/dog/0.png"))


def test_the_commands_say_the_same(task):
    for command in ("classify", "export", "compare"):
        more = [task.csv] if command == "export" else []
        refused(
            call(command, task.support.parent, *more, "--data", task.data), "parts of a data set", task.support.parent
        )


def test_what_lies_below_a_folder_of_a_class_is_scored_as_that_class(task):
    run = ltdi.load(task.data)
    head = run.generate(task.support)
    flat = head.score(task.query)
    for place in list(task.query.iterdir()):
        for file in list(place.iterdir()):
            (place / file.stem).mkdir()
            shutil.move(file, place / file.stem / file.name)
    assert head.score(task.query) == flat
    ended = task.call(task.support, task.query)
    assert f"of 25 images in folders named like a class {round(25 * flat)} are right" in ended.output
    # of a folder above the one that is named nothing is known
    first = sorted(task.query.iterdir())[0]
    assert "named like a class" not in task.call(task.support, first / "0").output


def test_the_same_in_a_zip(make, tmp_path):
    root = make("cat/a/0.png", "cat/b/0.png", "dog/0.png")
    shutil.make_archive(str(root), "zip", root)
    shutil.rmtree(root)
    found, (line,) = read(root)
    assert found == {"cat": 2, "dog": 1} and "root/cat holds a, b" in line
