"""A finished run as an object, and the command ``ltdi`` as its user runs it."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from command import call, refused
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

import ltdi
from ltdi.datasets import DATASETS
from ltdi.datasets.image_files import read_images
from ltdi.evaluation.condition_ablation import compare_conditions
from ltdi.learners.base import Learner
from ltdi.store import read_tensors, write_tensors
from ltdi.trajectories.storage import load_sources, read_weights
from ltdi.utils.errors import InputError


def names_of(data) -> list[str]:
    return [f"class{number}" for number in load_sources(data, splits=["meta_test"])["meta_test"].classes[3].tolist()]


# --- as an object


def test_the_lines_of_the_readme(task, tmp_path):
    run = ltdi.load(task.data)
    head = run.generate(task.support)
    answers = head.classify(task.query)
    assert list(answers) == ["image", "class", "probability"] and len(answers) == 25
    right = (answers.image.map(lambda image: image.split("/")[-2]) == answers["class"]).mean()
    assert head.score(task.query) == pytest.approx(right)
    head.save(tmp_path / "head.safetensors")
    again = run.load_head(tmp_path / "head.safetensors")
    pd.testing.assert_frame_equal(again.classify(task.query), answers)
    images = {place.name: sorted(place.iterdir()) for place in sorted(task.support.iterdir())}
    w = run.method.generate(run.context(images), generator=run.noise(0))
    assert_close(w, head.w, rtol=0, atol=0)


def test_a_library_changes_nothing_global(task, global_state, tmp_path, monkeypatch):
    """Its numbers are those of the command all the same, whatever a program has set."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = global_state()
    run = ltdi.load(task.data)
    assert global_state() == before
    for name in run.names:
        run.read(name)
    head = run.generate(task.support)
    head.classify(task.query)
    head.save(tmp_path / "head.safetensors")
    again = run.load_head(tmp_path / "head.safetensors")
    images = sorted((task.support / again.classes[0]).iterdir())
    again.with_class("one more", images)
    compare_conditions(task.data, n_tasks=5)
    assert global_state() == before


@pytest.mark.parametrize("kind", ["zip", "csv", "gif", "head cut short", "empty"])
def test_what_is_no_folder_and_no_head_is_named_as_what_it_is(kind, task, tmp_path):
    file = tmp_path / f"task.{kind}"
    contents = {"csv": b"image,class\na.png,cat\n", "gif": b"GIF89a\1\0\1\0\0\0\0", "empty": b""}
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "task"), "zip", task.support)
    elif kind == "head cut short":
        ltdi.load(task.data).generate(task.support).save(file)
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.write_bytes(contents[kind])
    again = kind in ("head cut short", "empty")
    expected = "generate it again from its images" if again else "name a folder that holds a folder of images for each"
    expected = "no such file; paths are relative to the table's folder" if kind == "csv" else expected
    refused(call("classify", file, task.query, "--data", task.data), file, expected)
    assert again or "generate it again" not in call("classify", file, task.query, "--data", task.data).output


def test_files_arrays_pictures_and_tensors_say_the_same(task):
    run = ltdi.load(task.data)
    files = {place.name: sorted(place.iterdir()) for place in sorted(task.support.iterdir())}
    of_files = run.generate(files)
    for read in (np.asarray, Image.Image.copy):
        made = run.generate({name: [read(Image.open(file)) for file in some] for name, some in files.items()})
        assert_close(made.w, of_files.w, rtol=0, atol=0)


def test_a_finished_run_is_told(task):
    told = ltdi.load(task.data).info()
    assert told["method"] == "ltdi" and told["data set"] == "glyphs" and "accuracy" in told
    ended = call("info", "--data", task.data)
    assert ended.exit_code == 0 and all(name in ended.output for name in told)


def test_exported_weights_are_a_plain_file_that_classifies_alike(task, tmp_path):
    file = tmp_path / "weights.safetensors"
    assert call("export", task.support, file, "--data", task.data).exit_code == 0
    run, tensors = ltdi.load(task.data), load_file(file)
    images = run.extractor(run.extractor.read(sorted(task.query.rglob("*.png")))).cpu()
    hidden = (images @ tensors["hidden.weight"].T + tensors["hidden.bias"]).relu()
    logits = hidden @ tensors["output.weight"].T + tensors["output.bias"]
    assert_close(logits.softmax(-1), run.generate(task.support).probabilities(task.query), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [{"one": torch.zeros(1, 1, 28, 28, dtype=torch.uint8)}, {"a": [], "b": []}, {"a": torch.zeros(3), "b": []}],
)
def test_what_is_no_task(task, images):
    with pytest.raises(InputError):
        ltdi.load(task.data).generate(images)


# --- a class added later


def one_less(task, tmp_path, *, method: str = "ltdi"):
    """A run, a kept head of all classes but the last, that one's folder and those of the others."""
    *others, last = sorted(task.support.iterdir())
    shutil.copy(task.query / others[0].name / "0.png", others[0] / "more.png")
    run = ltdi.load(task.data, method=method)
    shutil.move(last, tmp_path / last.name)
    run.generate(task.support, seed=3).save(tmp_path / "head.safetensors")
    return SimpleNamespace(run=run, head=tmp_path / "head.safetensors", last=tmp_path / last.name, others=others)


@pytest.mark.parametrize("method", ["ltdi", "prototype", "ridge", "prototype_sgd"])
def test_a_class_added_later_is_as_if_it_had_been_there_from_the_start(method, task, tmp_path):
    parts = one_less(task, tmp_path, method=method)
    images = {place.name: sorted(place.iterdir()) for place in (*parts.others, parts.last)}
    at_once = parts.run.generate(images, seed=3)
    shutil.rmtree(task.support)  # the images of the first classes are not needed again
    later = ltdi.load(task.data).load_head(parts.head).with_class(parts.last.name, parts.last)
    assert later.classes == at_once.classes and later.shots == at_once.shots == (2, 1, 1, 1, 1)
    assert later.method == method
    assert_close(later.w, at_once.w, rtol=1e-3, atol=1e-4)
    assert_close(later.probabilities(task.query), at_once.probabilities(task.query), rtol=1e-3, atol=1e-4)


def test_a_class_added_on_the_command_line_and_the_longer_head_kept(task, tmp_path):
    parts, longer = one_less(task, tmp_path), tmp_path / "longer.safetensors"
    added = f"{parts.last.name}={parts.last}"
    ended = task.call(parts.head, task.query, "--add", added, "--head", longer, "--csv", task.csv)
    assert ended.exit_code == 0 and f"1 of {parts.last.name}, by ltdi" in ended.output, ended.output
    first = task.csv.read_text()
    assert task.call(longer, task.query, "--csv", task.csv).exit_code == 0 and task.csv.read_text() == first
    assert task.call(task.support, task.query, "--seed", 3, "--add", added, "--csv", task.csv).exit_code == 0
    assert task.csv.read_text() == first


def test_two_classes_added_one_after_the_other(task, tmp_path):
    parts = one_less(task, tmp_path)
    head = parts.run.load_head(parts.head)
    twice = head.with_class(parts.last.name, parts.last).with_class("more", task.query / parts.others[1].name)
    assert twice.classes == (*(place.name for place in parts.others), parts.last.name, "more")
    assert twice.shots == (2, 1, 1, 1, 1, 5) and head.classes == twice.classes[:4]


def test_mistakes_in_a_class_to_add(task, tmp_path):
    parts = one_less(task, tmp_path)
    name = parts.last.name
    refused(task.call(parts.head, "--add", name), f"--add {name}", "NAME=FOLDER")
    refused(task.call(parts.head, "--add", f"{name}={tmp_path / 'nowhere'}"), tmp_path / "nowhere", "no such file")
    refused(task.call(parts.head, "--add", f"{parts.others[0].name}={parts.last}"), "is there already")
    (tmp_path / "empty").mkdir()
    refused(task.call(parts.head, "--add", f"{name}={tmp_path / 'empty'}"), tmp_path / "empty")


def test_no_class_joins_a_head_of_another_training(task, mixed, tmp_path):
    parts = one_less(task, tmp_path)
    file = task.data / "model" / "methods" / "ltdi.safetensors"
    tensors, values = read_tensors(file, kind="method")
    write_tensors(file, {name: value * 2 for name, value in tensors.items()}, values, kind="method")
    assert task.call(parts.head, task.query).exit_code == 0
    added = f"{parts.last.name}={parts.last}"
    refused(task.call(parts.head, "--add", added), "another training of ltdi", "again from its images")


def test_no_class_joins_a_head_of_one_size_or_without_its_features(task, tmp_path):
    parts = one_less(task, tmp_path)
    tensors, facts = read_tensors(parts.head, kind="head")
    write_tensors(parts.head, {name: tensors[name] for name in tensors if name != "support"}, facts, kind="head")
    added = f"{parts.last.name}={parts.last}"
    assert task.call(parts.head, task.query).exit_code == 0
    refused(task.call(parts.head, "--add", added), "no features of its classes")
    shutil.move(parts.last, task.support / parts.last.name)
    more = f"more={task.query / parts.last.name}"
    refused(task.call(task.support, "--method", "mean_head", "--add", more), "heads of 5 classes", "none of 6")


# --- images as a viewer shows them


def saved(tmp_path, image: Image.Image, name: str = "picture.png", **options):
    image.save(tmp_path / name, **options)
    return read_images([tmp_path / name], mode="L", size=image.width)[0, 0].numpy()


def test_what_is_transparent_is_white(tmp_path):
    alpha = np.zeros((4, 4), np.uint8)
    alpha[1, 2] = 255
    ink = Image.merge("LA", [Image.new("L", (4, 4), 0), Image.fromarray(alpha)])
    assert (saved(tmp_path, ink) == 255 - alpha).all()


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn with the clock
    seen = saved(tmp_path, Image.fromarray(values), "picture.png", exif=exif)
    assert (seen[:4] == 255).all() and (seen[4:] == 0).all()


def test_sixteen_bits_and_floats_keep_their_shades(tmp_path):
    shades = np.linspace(0, 1, 16).reshape(4, 4)
    expected = (shades * 255).round().astype(int)
    sixteen = saved(tmp_path, Image.fromarray((shades * 65535).round().astype(np.uint16)))
    floats = saved(tmp_path, Image.fromarray(shades.astype(np.float32)), "picture.tiff")
    assert abs(sixteen - expected).max() <= 1 and abs(floats - expected).max() <= 1
    with pytest.raises(InputError, match="not from 0 to 1"):
        saved(tmp_path, Image.fromarray(300 * shades.astype(np.float32)), "wrong.tiff")


def test_links_are_followed_and_what_a_dot_hides_is_left_out(task, tmp_path):
    first, *_ = sorted(task.support.iterdir())
    shutil.move(first, tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (task.support / ".ipynb_checkpoints").mkdir()
    shutil.copy(next(task.query.rglob("*.png")), task.support / ".ipynb_checkpoints" / "0.png")
    assert len(ltdi.load(task.data).generate(task.support).classes) == 5


# --- as a command


@pytest.mark.parametrize("data_set", DATASETS)
def test_files_and_a_data_sets_images_are_inverse(tmp_path, data_set):
    channels = len(DATASETS[data_set].mode)
    images = torch.randint(256, (2, channels, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    files = [tmp_path / f"{j}.png" for j in range(2)]
    for file, image in zip(files, DATASETS[data_set].as_files(images)):
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(file)
    assert DATASETS[data_set].read(files, 28).equal(images)


def test_characters_are_dark_on_light_in_files(task):
    files = sorted(task.support.rglob("*.png"))
    assert len(files) == 5
    assert read_images(files, mode="L", size=28).float().mean() > 128


def test_the_head_is_the_one_that_the_pipeline_generates(task, tmp_path):
    assert task.call(task.support, "--head", tmp_path / "head.safetensors").exit_code == 0
    own, facts = read_tensors(tmp_path / "head.safetensors", kind="head")
    order = [facts["classes"].index(name) for name in names_of(task.data)]  # folders stand in the order of their names
    w = read_weights(task.data / "weights" / "ltdi")[0][1]["w"][3]
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
    assert right == pytest.approx(scores[(scores.method == "ltdi") & (scores.task == 3)].score.item(), abs=1e-6)
    assert re.search(
        rf"of 25 images in folders named like a class {round(25 * right)} are right, {right:.1%}", ended.output
    )


def test_a_kept_head_classifies_as_it_did_at_first(task, tmp_path):
    task.call(task.support, task.query, "--head", tmp_path / "head.safetensors", "--csv", task.csv)
    first = task.csv.read_text()
    shutil.rmtree(task.support)
    assert task.call(tmp_path / "head.safetensors", task.query, "--csv", task.csv).exit_code == 0
    assert task.csv.read_text() == first


def test_a_baseline_answers_too(task):
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
    extractor = ltdi.load(task.data).extractor
    ended = task.call(task.support, "--method", "prototype", "--head", tmp_path / "head.safetensors")
    assert ended.exit_code == 0 and f"from 3 of {place.name}, 1 of {others[0].name}, " in ended.output
    weight = read_tensors(tmp_path / "head.safetensors", kind="head")[0]["output.weight"]
    means = torch.stack([extractor(extractor.read(sorted(each.glob("*.png")))).mean(0) for each in (place, *others)])
    rows = weight[:, : means.shape[1]]
    assert_close(rows / rows.norm(), (means / means.norm()).cpu(), rtol=1e-3, atol=1e-5)
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
    def facts(learner: Learner):
        return {"name": "a body and a head"}

    run = ltdi.load(task.data)
    head = run.generate(task.support)
    monkeypatch.setattr(type(head.learner), "facts", facts)
    with pytest.raises(InputError, match="ltdi makes more than a head"):
        head.save(tmp_path / "head.safetensors")


def test_a_head_of_another_body(task, mixed, tmp_path):
    head, body = tmp_path / "head.safetensors", task.data / "body" / "body.safetensors"
    task.call(task.support, "--head", head)
    refused(task.call(body, task.query), body, "'head' is needed")
    tensors, facts = read_tensors(body, kind="body")
    write_tensors(body, {name: value + 0.01 for name, value in tensors.items()}, facts, kind="body")
    refused(task.call(head, task.query), head, "another body")


def test_names_are_shown_as_they_are(task):
    place = sorted(task.support.iterdir())[0]
    place.rename(place.with_name("[red] :smile: \x1b[31m"))
    ended = task.call(task.support, task.query)
    assert ended.exit_code == 0
    assert "[red] :smile: \\x1b[31m" in ended.output and "\x1b[31m" not in ended.output


def test_a_class_of_no_image_that_is_read(task):
    place = sorted(task.support.iterdir())[0]
    next(place.iterdir()).rename(place / "0.txt")
    refused(task.call(task.support), place, "no image that is read")


def test_no_run_yet(tmp_path):
    refused(call("classify", tmp_path, "--data", tmp_path / "none"), tmp_path / "none", "dvc repro")
    refused(call("example", "--data", tmp_path / "none"), "initialization.safetensors", "dvc repro")


def test_a_task_that_is_not_there(finished):
    refused(call("example", "--task", 30, "--data", finished.data), "--task 30", "0 to 29")


def test_no_output_goes_onto_an_image_or_into_the_run(task):
    image, weights = next(task.query.rglob("*.png")), task.data / "model" / "methods" / "ltdi.safetensors"
    before = image.read_bytes(), weights.read_bytes()
    refused(task.call(task.support, task.query, "--csv", image), image, "is an image")
    refused(task.call(task.support, "--head", weights), weights, "among the files of the run")
    refused(task.call(task.support, "--csv", task.csv, "--head", task.csv), "--csv and --head", task.csv)
    assert (image.read_bytes(), weights.read_bytes()) == before and not task.csv.exists()


def test_of_more_chains_than_tasks_is_told(finished, write_params, run_stage, tmp_path, capsys):
    run_stage("generate_weights", write_params(tmp_path / "more", {"generate.chains": 31}), finished.data)
    assert "generate.chains = 31: there are 30 meta-test tasks, and all are taken" in capsys.readouterr().out
