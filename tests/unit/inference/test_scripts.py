"""``ltdi`` in scripts: answers on standard output, all else on standard error, in forms that programs read."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from command import call, refused
from PIL import Image

import ltdi
from ltdi.inference.answers import ENDINGS
from ltdi.inference.user_files import Rows
from ltdi.utils import console


def rows_of(ended) -> list[dict]:
    assert ended.exit_code == 0, ended.output
    return [json.loads(line) for line in ended.stdout.splitlines()]


def shell(line: str, repository) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(repository), "LTDI": f"{sys.executable} -m ltdi"}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=env, cwd=repository)


# --- where what is said goes


def test_mistakes_are_on_standard_error(task, tmp_path):
    for arguments in (("classify", tmp_path / "no"), ("audit", tmp_path), ("compare", tmp_path), ("info",)):
        ended = call(*arguments, *([] if arguments[0] == "audit" else ["--data", tmp_path]))
        assert ended.exit_code == 2 and not ended.stdout and ended.stderr.startswith("ltdi ")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", ">&- <&-", "> /dev/full", "2>&1 >&-"])
def test_a_mistake_is_one_line_where_standard_output_takes_nothing(closed, repository):
    ended = shell(f"$LTDI classify /nope q {closed}", repository)
    assert ended.returncode == 2
    assert (ended.stdout + ended.stderr).count(
        "\n"
    ) == 1 and "ltdi classify: q: no such file" in ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "2> /dev/full", "<&- >&- 2>&-"])
def test_where_standard_error_takes_nothing_the_status_says_it(closed, repository):
    ended = shell(f"$LTDI classify /nope q {closed}", repository)
    assert ended.returncode == 2 and not ended.stdout + ended.stderr


@pytest.mark.slow
def test_answers_that_nobody_takes_are_a_mistake(task, repository):
    for form in ("--json", "--csv -"):
        ended = shell(f"$LTDI classify {task.support} {task.query} --data {task.data} {form} >&-", repository)
        assert ended.returncode == 2 and "standard output is closed" in ended.stderr


# --- forms


def test_answers_as_json(task):
    ended = task.call(task.support, task.query, "--json")
    found = rows_of(ended)
    expected = ltdi.load(task.data).generate(task.support).classify(task.query)
    assert [row["image"] for row in found] == expected["image"].tolist()
    assert [row["class"] for row in found] == expected["class"].tolist()
    np.testing.assert_allclose([row["probability"] for row in found], expected.probability)
    assert "a head from" in ended.stderr and "are right" in ended.stderr
    assert list(found[0]) == ["image", "class", "probability"]


def test_answers_as_csv_on_standard_output_are_those_of_the_file(task):
    ended = task.call(task.support, task.query, "--csv", "-")
    assert task.call(task.support, task.query, "--csv", task.csv).exit_code == 0
    assert ended.stdout == task.csv.read_text() and "a head from" in ended.stderr
    assert {len(line.split(",")[-1]) for line in ended.stdout.splitlines()[1:]} == {len("0.1234")}


@pytest.mark.parametrize("form", [["--json"], ["--csv", "-"]])
def test_the_probabilities_of_all_classes(form, task):
    ended = task.call(task.support, task.query, *form, "--all")
    found = pd.DataFrame(rows_of(ended)) if form == ["--json"] else pd.read_csv(io.StringIO(ended.stdout))
    head = ltdi.load(task.data).generate(task.support)
    own = [f"p({name})" for name in head.classes]
    assert list(found) == ["image", "class", "probability", *own]
    np.testing.assert_allclose(found[own], head.probabilities(task.query), atol=1e-4)


def test_tables_as_json_and_a_run_too(finished, task):
    run = rows_of(call("info", "--data", task.data, "--json"))
    assert run == [{**ltdi.load(task.data).info()}]
    table = rows_of(call("audit", task.data, "--tasks", 20, "--json"))
    assert table[0]["weights"] == "right" and table[0]["distance2"] == 0
    ended = call("compare", task.query, "--n-query", 2, "--tasks", 5, "--csv", "-", "--data", task.data)
    assert pd.read_csv(io.StringIO(ended.stdout)).method[0] == "ltdi" and "best baseline" in ended.stderr


def test_two_tables_on_one_stream_are_refused(task):
    refused(task.call(task.support, task.query, "--json", "--csv", "-"), "both write to standard output")
    ended = task.call(task.support, task.query, "--json", "--csv", task.csv)
    assert len(rows_of(ended)) == len(pd.read_csv(task.csv)) == 25


def test_what_is_no_number_is_null(capsys):
    with Rows(None, True) as rows:
        names = pd.Series(["x", "\udc80\n"], dtype=object)
        rows.add(pd.DataFrame({"a": [1.0, np.nan], "b": names, "c": [1, 2]}))
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [{"a": 1.0, "b": "x", "c": 1}, {"a": None, "b": "\udc80\n", "c": 2}]


def test_a_file_whose_name_is_no_text_is_answered_in_every_form(task, tmp_path):
    file = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    shutil.copy(next(task.query.rglob("*.png")), file)
    (row,) = rows_of(task.call(task.support, os.fsdecode(file), "--json"))
    assert os.fsencode(row["image"]) == file
    assert task.call(task.support, os.fsdecode(file), "--csv", task.csv).exit_code == 0
    assert "caf\\udce9.png" in task.csv.read_text()


def test_the_version_is_told():
    ended = call("--version")
    assert ended.exit_code == 0 and ended.stdout == f"ltdi {ltdi.__version__}\n"
    assert "classify" in call("--help").stdout


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "\t=1"])
def test_no_name_is_a_formula_in_a_table(name, task):
    for part in (task.support, task.query):
        sorted(part.iterdir())[0].rename(part / name)
    ended = task.call(task.support, task.query, "--csv", task.csv, "--all")
    assert ended.exit_code == 0, ended.output
    with open(task.csv, encoding="utf-8", newline="") as lines:
        table = list(csv.reader(lines))
    assert not [cell for row in table for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert f"'{name}" in {row[1] for row in table}
    assert name in {row["class"] for row in rows_of(task.call(task.support, task.query, "--json"))}


# --- programs


def test_a_file_is_what_its_name_says(task, tmp_path):
    assert call("export", task.support, tmp_path / "a.pt2", "--data", task.data).exit_code == 0
    assert (tmp_path / "a.pt2").read_bytes()[:2] == b"PK"
    for ending, kind in ENDINGS.items():
        for other in ("onnx", "torch"):
            if other != kind:
                place = tmp_path / f"b{ending}"
                ended = call("export", task.support, place, "--program", other, "--data", task.data)
                refused(ended, f"--program {other}", place)
                assert not place.exists()


def test_an_onnx_file_is_a_program(task, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    assert call("export", task.support, tmp_path / "cats.ONNX", "--data", task.data).exit_code == 0
    onnx.load_from_string((tmp_path / "cats.ONNX").read_bytes())


# --- what cannot be read among much that can


def spoiled(task):
    """Four of 29 that are no images, each in its own way."""
    first, second, third, *_ = sorted(task.query.rglob("*.png"))
    (first.parent / "cut.png").write_bytes(second.read_bytes()[:60])
    (first.parent / "gone.png").symlink_to("nowhere")
    (first.parent / "phone.heic").write_bytes(b"heic")
    os.mkfifo(first.parent / "pipe.png")
    return ["cut.png", "gone.png", "phone.heic", "pipe.png"]


def test_what_cannot_be_read_is_left_out_and_listed(task):
    expected = ltdi.load(task.data).generate(task.support).classify(task.query)
    names = spoiled(task)
    assert task.call(task.support, task.query).exit_code == 2
    ended = task.call(task.support, task.query, "--skip-unreadable", "--csv", task.csv)
    assert ended.exit_code == 0, ended.output
    for name in names:
        assert f"{name}" in ended.stderr
    assert ended.stderr.count("left out: ") == 4 and "4 of 29 images could not be read" in ended.stderr
    found = pd.read_csv(task.csv)
    assert found["image"].tolist() == expected["image"].tolist()
    assert found["class"].tolist() == expected["class"].tolist()


def test_where_nothing_can_be_read_that_is_the_end(task, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    ended = task.call(task.support, tmp_path / "a.png", "--skip-unreadable", "--csv", task.csv)
    assert ended.exit_code == 2 and "none of 1 images could be read" in ended.stderr and not task.csv.exists()


def test_answers_are_written_as_they_come_and_stay_where_the_work_ends(task, monkeypatch):
    monkeypatch.setattr("ltdi.inference.head.ANSWERED_TOGETHER", 10)
    last = sorted(task.query.rglob("*.png"))[-1]
    last.write_bytes(b"no image")
    ended = task.call(task.support, task.query, "--csv", task.csv)
    assert ended.exit_code == 2 and "the first 20 rows" in ended.stderr and not task.csv.exists()
    part = task.csv.with_name(f"{task.csv.name}.part")
    assert len(pd.read_csv(part)) == 20
    assert len(task.call(task.support, task.query, "--json").stdout.splitlines()) == 20
    shutil.copy(sorted(task.query.rglob("*.png"))[0], last)
    assert task.call(task.support, task.query, "--csv", task.csv).exit_code == 0
    assert len(pd.read_csv(task.csv)) == 25 and not part.exists()


def test_how_far_it_is_is_said_now_and_then(task, monkeypatch):
    monkeypatch.setattr("ltdi.inference.head.ANSWERED_TOGETHER", 10)
    monkeypatch.setattr(console, "EVERY", 0.0)
    ended = task.call(task.support, task.query, "--json")
    assert "20 of 25 images are answered" in ended.stderr and len(rows_of(ended)) == 25


# --- words on what is no mistake


def test_an_image_in_two_classes_is_said(task):
    first, second, *_ = sorted(task.support.iterdir())
    shutil.copy(next(first.iterdir()), second / "again.bmp.png")
    with pytest.warns(UserWarning, match=f"class '{second.name}' is in class '{first.name}' too"):
        ltdi.load(task.data).generate(task.support)
    ended = task.call(task.support, task.query, "--json")
    assert "note: image number" in ended.stderr and len(rows_of(ended)) == 25


def test_an_image_of_one_shade_is_said(task, tmp_path):
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    ended = task.call(task.support, tmp_path / "white.png")
    assert "1 of the images are of one shade alone" in " ".join(ended.stderr.split()) and "white.png" in ended.stderr
    assert "one shade" not in task.call(task.support, task.query).stderr


def test_copies_in_a_folder_that_is_compared_are_said(task):
    def told():
        return " ".join(call("compare", task.query, "--n-query", 2, "--tasks", 5, "--data", task.data).output.split())

    assert "copies" not in told() and "in two classes" not in told()
    first, second, *_ = sorted(task.query.iterdir())
    image = next(first.iterdir())
    Image.open(image).save(first / "again.bmp")
    assert "1 of 26 images are copies of others of their class" in told()
    shutil.copy(image, second / "strange.png")
    assert "1 images are in two classes or more" in told()


def test_to_learn_from_what_is_asked_there_must_be_some_of_each_class(task):
    one = sorted(task.query.rglob("*.png"))[0]
    refused(task.call(task.support, one, "--transductive"), "1 images of 5 classes", "leave it out")


def test_weights_without_numbers_are_not_audited(tmp_path):
    import torch
    from safetensors.torch import save_file

    for tensors in ({}, {"a": torch.zeros(0, 3)}):
        for name in ("a", "b"):
            save_file(tensors, tmp_path / f"{name}.safetensors", metadata={"a": "b"})
        refused(call("audit", tmp_path), "a.safetensors", "holds no number")
