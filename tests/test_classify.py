"""``python -m pipeline.example`` and ``python -m pipeline.classify`` as their user runs them, on a finished run."""

import re
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from pipeline.files import load_tasks
from pipeline.images import as_files, read_like
from torch.testing import assert_close
from typer.testing import CliRunner

from ltdi.datasets import DATASETS
from ltdi.datasets.images import read_images
from ltdi.methods import METHODS
from ltdi.store import read_tensors
from pipeline import classify, example


def call(program, *arguments):
    app = typer.Typer()
    app.command()(program.main)
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def task(finished, tmp_path) -> SimpleNamespace:
    """A meta-test task as folders, and a function that classifies by the run it comes from."""
    assert call(example, "--task", 3, "--data", finished.data).exit_code == 0
    folder = finished.data / "example"
    return SimpleNamespace(
        support=folder / "support",
        query=folder / "query",
        data=finished.data,
        csv=tmp_path / "answers.csv",
        call=lambda *arguments: call(classify, *arguments, "--data", finished.data),
    )


def names_of(data) -> list[str]:
    return [f"class{number}" for number in load_tasks(data, splits=["meta_test"])["meta_test"].classes[3].tolist()]


@pytest.mark.parametrize("data_set", DATASETS)
def test_files_and_a_data_sets_images_are_inverse(tmp_path, data_set):
    channels = 3 if data_set == "mini_imagenet" else 1
    images = torch.randint(256, (2, channels, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    files = [tmp_path / f"{j}.png" for j in range(2)]
    for file, image in zip(files, as_files(data_set, images)):
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(file)
    assert read_like(data_set, files, 28).equal(images)


def test_characters_are_dark_on_light_in_files(task):
    files = sorted(task.support.rglob("*.png"))
    assert len(files) == 5
    assert read_images(files, mode="L", size=28).float().mean() > 128


def test_the_head_is_the_one_that_the_pipeline_generates(task, tmp_path):
    assert task.call(task.support, "--head", tmp_path / "head.safetensors").exit_code == 0
    own, facts = read_tensors(tmp_path / "head.safetensors")
    order = [facts["classes"].index(name) for name in names_of(task.data)]  # folders stand in the order of their names
    w = read_tensors(task.data / "weights" / "ltdi.safetensors")[0]["w"][3]
    hidden = own["hidden.weight"].numel() + own["hidden.bias"].numel()
    assert_close(
        torch.cat([own["hidden.weight"], own["hidden.bias"][:, None]], 1).flatten(), w[:hidden], atol=1e-4, rtol=1e-3
    )
    assert_close(
        torch.cat([own["output.weight"], own["output.bias"][:, None]], 1)[order].flatten(),
        w[hidden:],
        atol=1e-4,
        rtol=1e-3,
    )


def test_the_answers_are_the_pipelines(task):
    ended = task.call(task.support, task.query, "--csv", task.csv)
    assert ended.exit_code == 0
    answers = pd.read_csv(task.csv)
    assert len(answers) == 25 and answers.probability.between(0.2, 1).all()
    right = (answers.image.map(lambda image: image.split("/")[-2]) == answers["class"]).mean()
    scores = pd.read_parquet(task.data / "results" / "per_task.parquet")
    assert right == pytest.approx(scores[(scores.method == "ltdi") & (scores.task == 3)].accuracy.item(), abs=1e-6)
    assert re.search(
        rf"of 25 images in folders named like a class {round(25 * right)} are right, {right:.1%}", ended.output
    )


def test_a_kept_head_classifies_as_it_did_at_first(task, tmp_path):
    task.call(task.support, task.query, "--head", tmp_path / "head.safetensors", "--csv", task.csv)
    first = task.csv.read_text()
    shutil.rmtree(task.support)
    assert task.call(tmp_path / "head.safetensors", task.query, "--csv", task.csv).exit_code == 0
    assert task.csv.read_text() == first


def test_a_control_answers_too(task):
    ended = task.call(task.support, task.query, "--method", "prototype")
    assert ended.exit_code == 0 and ", by prototype" in ended.output


def test_more_images_of_each_class_than_the_run_was_trained_on(task):
    places = sorted(task.support.iterdir())
    for place in places:
        shutil.copy(task.query / place.name / "0.png", place / "more.png")
    ended = task.call(task.support, task.query)
    assert (
        ended.exit_code == 0 and f"from {', '.join(f'2 of {place.name}' for place in places)}, by ltdi" in ended.output
    )


def test_classes_of_unequal_numbers_of_images(task, tmp_path):
    """The prototype of each class is the mean of its own."""
    place, *others = sorted(task.support.iterdir())
    for name in ("0.png", "1.png"):
        shutil.copy(task.query / place.name / name, place / f"more{name}")
    eye = classify.Eye.load(task.data, torch.device("cpu"))
    ended = task.call(task.support, "--method", "prototype", "--head", tmp_path / "head.safetensors")
    assert ended.exit_code == 0 and f"from 3 of {place.name}, 1 of {others[0].name}, " in ended.output
    weight = read_tensors(tmp_path / "head.safetensors")[0]["output.weight"]
    means = torch.stack([eye.features(eye.read(sorted(each.glob("*.png")))).mean(0) for each in (place, *others)])
    rows = weight[:, : means.shape[1]]
    assert_close(rows / rows.norm(), means / means.norm(), rtol=1e-3, atol=1e-5)
    assert task.call(task.support, task.query).exit_code == 0


@pytest.mark.parametrize("n_classes", [2, 4, 8])
def test_other_numbers_of_classes_than_the_run_was_trained_on(task, n_classes):
    """Prototypes do not touch each other: of the classes that stay, the same answers wherever one of them was given."""
    places = sorted(task.support.iterdir())
    task.call(task.support, task.query, "--csv", task.csv, "--method", "prototype")
    of_five = pd.read_csv(task.csv)
    for place in places[n_classes:]:
        shutil.rmtree(place)
    for j in range(n_classes - len(places)):
        shutil.copytree(places[j], task.support / f"again{j}")
    task.call(task.support, task.query, "--csv", task.csv, "--method", "prototype")
    of_others = pd.read_csv(task.csv)
    if n_classes < 5:
        same = of_five["class"].isin({place.name for place in places[:n_classes]})
        assert same.any() and of_others["class"][same].equals(of_five["class"][same])
    else:
        assert of_others["class"].isin([place.name for place in task.support.iterdir()]).all()
    ended = task.call(task.support, task.query)
    assert ended.exit_code == 0 and f"of {5 * min(n_classes, 5)} images" in ended.output


def test_a_file_is_classified_like_the_folder_that_holds_it(task):
    file = sorted(task.query.rglob("*.png"))[7]
    task.call(task.support, task.query, "--csv", task.csv)
    in_folder = pd.read_csv(task.csv).set_index("image").loc[str(file)]
    task.call(task.support, file, "--csv", task.csv)
    (alone,) = pd.read_csv(task.csv).itertuples()
    assert alone.image == str(file) and alone[2] == in_folder["class"]
    assert alone.probability == pytest.approx(in_folder.probability, abs=2e-4)


# --- mistakes


def refused(ended, *parts):
    assert ended.exit_code == 2
    assert ended.output.startswith("pipeline.") and ended.output.count("\n") == 1, ended.output
    for part in parts:
        assert str(part) in ended.output


def test_fewer_than_two_classes(task):
    for place in sorted(task.support.iterdir())[1:]:
        shutil.rmtree(place)
    refused(task.call(task.support), "1 classes", "two or more")


def test_an_image_in_no_class(task):
    shutil.copy(next(task.query.rglob("*.png")), task.support / "stray.png")
    refused(task.call(task.support), "stray.png", "class's folder")


def test_a_damaged_image(task):
    file = next(task.support.rglob("*.png"))
    file.write_bytes(b"no image")
    refused(task.call(task.support), file)


def test_nothing_there(task, tmp_path):
    refused(task.call(tmp_path / "nowhere"), tmp_path / "nowhere", "no such folder or file")
    refused(task.call(task.support, tmp_path / "nowhere"), tmp_path / "nowhere", "no such file")


def test_a_damaged_image_to_classify(task, tmp_path):
    file = next(task.query.rglob("*.png"))
    file.write_bytes(b"no image")
    refused(task.call(task.support, task.query, "--head", tmp_path / "head.safetensors"), file)
    assert not (tmp_path / "head.safetensors").exists()


def test_an_unknown_method(task):
    refused(task.call(task.support, "--method", "nonsense"), "nonsense", "ltdi, prototype")


def test_a_method_that_has_learned_heads_of_one_number_of_classes(task):
    shutil.rmtree(next(task.support.iterdir()))
    refused(
        task.call(task.support, "--method", "mean_head"), "mean_head", "heads of 5 classes", "none of 4", "tasks.n_way"
    )


def test_a_head_is_generated_of_images_only(task, tmp_path):
    head = tmp_path / "head.safetensors"
    task.call(task.support, "--head", head)
    refused(task.call(head, "--method", "ltdi"), head, "--method")


def test_what_is_more_than_a_head_is_not_kept(task, tmp_path, monkeypatch):
    load = classify.load_method

    def of_more_than_a_head(*given):
        made = load(*given)
        monkeypatch.setattr(METHODS["ltdi"], "space", "the body's and the head's")
        return made

    monkeypatch.setattr(classify, "load_method", of_more_than_a_head)
    refused(task.call(task.support, "--head", tmp_path / "head.safetensors"), "ltdi makes more than a head", "--head")


def test_a_head_of_another_body(task, tmp_path):
    head, body = tmp_path / "head.safetensors", task.data / "body" / "body.safetensors"
    task.call(task.support, "--head", head)
    refused(task.call(body, task.query), body, "no head")
    tensors, facts = read_tensors(body)
    classify.write_tensors(body, {name: value + 0.01 for name, value in tensors.items()}, facts)
    refused(task.call(head, task.query), head, "another body")


def test_no_run_yet(tmp_path):
    refused(call(classify, tmp_path, "--data", tmp_path / "none"), "features.safetensors", "dvc repro")
    refused(call(example, "--data", tmp_path / "none"), "features.safetensors", "dvc repro")


def test_a_task_that_is_not_there(finished):
    refused(call(example, "--task", 30, "--data", finished.data), "--task 30", "0 to 29")
