"""Names of classes and files as people give them, on their way through ``ltdi classify``."""

import csv
import shutil

import pytest
from command import refused

import ltdi

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
    assert row["image"] == str(asked) and row["class"] in ltdi.load(task.data).load_head(head).classes
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
