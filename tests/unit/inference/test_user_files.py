"""No command writes onto what it reads, by whatever name."""

import os
import shutil
from pathlib import Path

import pytest
from command import call, refused

WAYS = {
    "itself": lambda file, place: file,
    "a link to it": lambda file, place: place.symlink_to(file) or place,
    "a link to a link": lambda file, place: place.symlink_to(_link(file, place.with_name("between"))) or place,
    "another name of it": lambda file, place: os.link(file, place) or place,
    "up and down": lambda file, place: file.parent / ".." / file.parent.name / file.name,
}
every_way = pytest.mark.parametrize("way", WAYS)


def _link(file, place):
    place.symlink_to(file)
    return place


@pytest.fixture
def kept(task, tmp_path):
    """A kept head, and one that is a link into a store, as files of data sets and caches often are."""
    (tmp_path / "store").mkdir()
    assert task.call(task.support, "--head", tmp_path / "store" / "blob").exit_code == 0
    head = tmp_path / "head.safetensors"
    head.symlink_to(tmp_path / "store" / "blob")
    return head


@every_way
def test_a_head_is_not_lost_to_its_own_output(way, task, kept, tmp_path):
    output = WAYS[way](kept, tmp_path / "output")
    before = kept.read_bytes()
    added = f"more={next(task.query.iterdir())}"
    for arguments in (
        ("classify", kept, task.query, "--csv", output),
        ("classify", kept, task.query, "--add", added, "--head", output),
        ("export", kept, output),
        ("export", kept, output, "--program", "torch"),
        ("classify", kept, task.query, "--csv", tmp_path / "store" / "blob"),
    ):
        refused(call(*arguments, "--data", task.data), "which is read and would be lost; name another place")
        assert kept.read_bytes() == before and kept.is_symlink()


@every_way
@pytest.mark.parametrize("command", ["support", "query", "examples", "add", "compare"])
def test_no_image_that_is_read_is_lost(command, way, task, tmp_path):
    """Of one that is a link into a store too, where it has no name of an image's."""
    for part in (task.support, task.query):
        image = next(part.rglob("*.png"))
        shutil.move(image, tmp_path / f"blob of {part.name}")
        image.symlink_to(tmp_path / f"blob of {part.name}")
    blob = tmp_path / ("blob of support" if command in ("support", "examples") else "blob of query")
    output = WAYS[way](blob, tmp_path / "output")
    before = blob.read_bytes()
    arguments = {
        "support": ("classify", task.support, "--head", output),
        "query": ("classify", task.support, task.query, "--csv", output),
        "examples": ("classify", "--names", "a, b", "--examples", task.support, task.query, "--csv", output),
        "add": ("classify", task.support, "--add", f"more={task.query}", "--head", output),
        "compare": ("compare", task.query, "--csv", output),
    }[command]
    refused(call(*arguments, "--data", task.data), "which is read and would be lost")
    assert blob.read_bytes() == before


def test_an_image_is_not_lost_where_its_name_alone_says_what_it_is(task, tmp_path):
    blob, named = tmp_path / "blob", tmp_path / "picture.png"
    shutil.copy(next(task.query.rglob("*.png")), blob)
    named.symlink_to(blob)
    refused(task.call(task.support, task.query, "--csv", named), "is an image")


def test_a_zip_beside_a_named_folder_is_not_lost(task, tmp_path):
    packed = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", task.query))
    before = packed.read_bytes()
    refused(task.call(task.support, tmp_path / "photos", "--csv", packed), "which is read and would be lost")
    assert packed.read_bytes() == before


@every_way
def test_no_weights_that_are_audited_are_lost(way, networks, tmp_path):
    file = networks / "net3" / "model.safetensors"
    before = file.read_bytes()
    refused(call("audit", networks, "--csv", WAYS[way](file, tmp_path / "output")), "which is read and would be lost")
    assert file.read_bytes() == before


@every_way
def test_no_file_of_a_run_is_lost_that_is_a_link_into_a_store(way, task, tmp_path):
    file, blob = task.data / "model" / "methods" / "ltdi.safetensors", tmp_path / "blob"
    shutil.move(file, blob)
    file.symlink_to(blob)
    before = blob.read_bytes()
    for output in (WAYS[way](blob, tmp_path / "output"), file):
        for arguments in (("classify", task.support, "--head", output), ("export", task.support, output)):
            assert call(*arguments, "--data", task.data).exit_code == 2
        assert call("audit", task.data, "--csv", output).exit_code == 2
    assert blob.read_bytes() == before and file.is_symlink()


def test_the_texts_that_an_adapter_is_made_from_are_not_lost(task, tmp_path):
    (tmp_path / "texts").mkdir()
    train = tmp_path / "texts" / "train.csv"
    train.write_text("text,label\na,0\nb,1\n")
    (tmp_path / "out").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "out" / name).symlink_to(train)
        ended = call("adapt", tmp_path / "texts", "--out", tmp_path / "out", "--data", task.data)
        refused(ended, "which is read and would be lost")
        (tmp_path / "out" / name).unlink()


def test_outputs_of_a_command_are_two_files(task, tmp_path):
    one = tmp_path / "one"
    one.touch()
    os.link(one, tmp_path / "other")
    (tmp_path / "link").symlink_to(one)
    for other in (one, tmp_path / "other", tmp_path / "link"):
        refused(task.call(task.support, task.query, "--csv", one, "--head", other), "--csv and --head are both")
    part = tmp_path / "answers.csv.part"
    refused(task.call(task.support, task.query, "--csv", tmp_path / "answers.csv", "--head", part), "at first")


@every_way
def test_what_a_table_is_at_first_written_to_is_apart_too(way, task, kept, tmp_path):
    if way in ("itself", "up and down"):
        return
    WAYS[way](kept, tmp_path / "answers.csv.part")
    before = kept.read_bytes()
    refused(task.call(kept, task.query, "--csv", tmp_path / "answers.csv"), "which is read and would be lost")
    assert kept.read_bytes() == before


def test_former_answers_are_written_anew_where_the_images_lie(task):
    csv = task.query / "answers.csv"
    for _ in range(2):
        assert task.call(task.support, task.query, "--csv", csv).exit_code == 0
    assert csv.read_text().count("\n") == 26


def test_a_new_example_takes_nothing_along_that_a_user_keeps_beside_it(task):
    head = task.support.parent / "head.safetensors"
    assert task.call(task.support, "--head", head).exit_code == 0
    refused(call("example", "--data", task.data), head, "move it")
    assert head.is_file()
    head.unlink()
    assert call("example", "--data", task.data).exit_code == 0
