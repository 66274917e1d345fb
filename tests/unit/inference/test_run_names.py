"""Names of classes and files as people give them, on their way through ``ltdi classify``."""

import csv
import os
import shutil
from enum import StrEnum

import numpy as np
import pytest
from command import refused
from torch.testing import assert_close

import ltdi
from ltdi.inference.class_names import different
from ltdi.inference.user_files import as_text
from ltdi.store import read_tensors, write_tensors
from ltdi.utils.errors import InputError

NAMES = ["two words", "comma, and", 'quote"d', "žluťoučký кот 猫", "-dash", "semi;colon", "' single"]


@pytest.mark.parametrize("name", NAMES)
def test_a_class_and_a_file_of_such_a_name_come_back_as_they_are(name, task, tmp_path):
    classes = sorted(task.support.iterdir())
    classes[0].rename(task.support / name)
    asked = tmp_path / name / f"{name}.png"
    asked.parent.mkdir()
    shutil.copy(next((task.query / classes[0].name).iterdir()), asked)
    head = tmp_path / f"{name}.safetensors"
    ended = task.call(task.support, asked, "--csv", task.csv, "--head", head)
    assert ended.exit_code == 0, ended.output
    with open(task.csv, encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == str(asked) and row["class"] in map(as_text, ltdi.load(task.data).load_head(head).classes)
    assert name in ltdi.load(task.data).load_head(head).classes


def test_two_files_of_one_name_are_two_images(task, tmp_path):
    """In a class, each in a folder below it; and among those that are asked."""
    first, *_ = sorted(task.support.iterdir())
    file = next(first.iterdir())
    asked = [tmp_path / place / file.name for place in ("one", "other")]
    for place in asked:
        place.parent.mkdir()
        shutil.copy(file, place)
    ended = task.call(task.support, *asked, "--csv", task.csv)
    assert ended.exit_code == 0
    with open(task.csv, encoding="utf-8", newline="") as lines:
        assert [row["image"] for row in csv.DictReader(lines)] == [str(place) for place in asked]


def test_more_shots_than_there_are_and_a_class_of_one_image_are_no_mistake(task):
    """A run of one image a class takes what there is of each."""
    first, second, *_ = sorted(task.support.iterdir())
    for i, file in enumerate(sorted((task.query / first.name).iterdir())):
        shutil.copy(file, first / f"more {i}.png")
    head = ltdi.load(task.data).generate(task.support)
    assert head.shots[0] == 6 and set(head.shots[1:]) == {1}


def test_an_empty_file_among_those_that_are_asked_is_named(task):
    file = next(task.query.rglob("*.png"))
    file.write_bytes(b"")
    refused(task.call(task.support, task.query), file, "get it again")


# --- whatever can be kept can be read


class Kind(StrEnum):
    CAT = "cat"


NAMES_OF_TWO = [
    [0, 1],
    [np.int64(3), np.uint8(200)],
    [False, True],
    [1.5, 2.0],
    [Kind.CAT, "dog"],
    [np.str_("a"), "b"],
    [10**30, -1],
    ["a\nb", "a\tb c"],
    ["x" * 10_000, "\U0001f9d1\u200d\U0001f692"],
]


@pytest.mark.parametrize("names", NAMES_OF_TWO, ids=lambda each: str(each)[:30])
def test_a_head_of_any_names_is_kept_and_read_again(names, task, tmp_path):
    run = ltdi.load(task.data)
    images = [sorted(place.iterdir()) for place in sorted(task.support.iterdir())[:2]]
    head = run.generate(dict(zip(names, images)), seed=np.int64(3))
    head.save(tmp_path / "head")
    again = run.load_head(tmp_path / "head")
    assert again.classes == head.classes == tuple(map(str, names)) and again.seed == 3
    assert_close(again.probabilities(task.query), head.probabilities(task.query))
    head.with_class(7, images[0]).save(tmp_path / "longer")
    assert run.load_head(tmp_path / "longer").classes == (*head.classes, "7")


NO_NAMES = {
    "none": ([None, "a"], "class None is of type NoneType"),
    "a tuple": ([("a",), "b"], "of type tuple"),
    "bytes": ([b"a", "b"], "of type bytes"),
    "nothing": (["", "a"], "class ''"),
    "a blank": ([" ", "a"], "class ' '"),
    "no width": (["\u200b", "a"], "1 to 10,000 characters that are seen"),
    "endless": (["x" * 10_001, "a"], "1 to 10,000 characters that are seen"),
    "no text": (["caf\udce9", "a"], "no text in UTF-8; rename it"),
    "a number and its digits": ([0, "0"], "look the same"),
    "one letter in two ways": (["\u00e9", "e\u0301"], "look the same"),
    "a blank behind": (["class0", "class0 "], "look the same"),
    "another blank between": (["a b", "a\u00a0b"], "look the same"),
    "a mark without width": (["ab", "a\u200bb"], "look the same"),
}


@pytest.mark.parametrize("mistake", NO_NAMES)
def test_names_that_could_not_be_kept_or_look_the_same_are_one_line_on_every_way(mistake, task, tmp_path):
    (names, told), run = NO_NAMES[mistake], ltdi.load(task.data)
    images = [sorted(place.iterdir()) for place in sorted(task.support.iterdir())[:3]]
    with pytest.raises(InputError, match=told) as error:
        run.generate(dict(zip(names, images)))
    assert "\n" not in str(error.value)
    one, other = names[::-1]
    with pytest.raises(InputError, match=f"{told}|is there already"):
        run.generate({one: images[0], "further": images[2]}).with_class(other, images[1])


@pytest.mark.parametrize(
    "names", [[b"caf\xe9", b"a"], ["\u00e9".encode(), "e\u0301".encode()], [b"class0", b"class0 "]], ids=str
)
def test_folders_of_such_names_are_one_line_and_no_head_is_kept(names, task, tmp_path):
    for place, name in zip(sorted(task.support.iterdir()), names):
        os.rename(place, os.path.join(os.fsencode(task.support), name))
    refused(task.call(task.support, "--head", tmp_path / "head"), task.support, "rename")
    assert not (tmp_path / "head").exists()


def test_a_class_is_not_added_that_looks_like_one_that_is_there(task, tmp_path):
    classes = sorted(task.support.iterdir())
    classes[0].rename(task.support / "\u00e9")
    for name in ("\u00e9 ", "e\u0301", "caf\udce9"):
        ended = task.call(task.support, "--add", f"{name}={classes[1]}", "--head", tmp_path / "head")
        refused(ended, "rename")
    assert not (tmp_path / "head").exists()


def test_what_would_not_be_read_again_is_not_written(task, tmp_path):
    head = ltdi.load(task.data).generate(task.support)
    object.__setattr__(head, "seed", True)
    with pytest.raises(InputError, match="seed"):
        head.save(tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_a_kept_head_of_names_that_look_the_same_is_named(task, tmp_path):
    task.call(task.support, "--head", tmp_path / "head")
    tensors, facts = read_tensors(tmp_path / "head", kind="head")
    for names in ([" "], ["class0", "class0 "]):
        facts["classes"][: len(names)] = names
        write_tensors(tmp_path / "head", tensors, facts, kind="head")
        refused(task.call(tmp_path / "head", task.query), tmp_path / "head", "generate it again")


def test_names_that_look_the_same_are_counted_once():
    assert different(["a", "a ", "\u200ba", "a b", "a\u2003b", "A"]) == 3
