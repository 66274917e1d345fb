"""Exported programs give the answers of the head that they were made of."""

import importlib.util
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import call, refused
from PIL import Image
from torch.testing import assert_close

import ltdi
from ltdi.inference.export import FACTS, PROGRAMS, Program, write_torch
from ltdi.inference.head import Head
from ltdi.learners import LinearHead
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.utils.errors import InputError

pytestmark = pytest.mark.slow

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
onnx_alone = pytest.mark.skipif(bool(MISSING), reason=f"the extra `export` is not installed: {', '.join(MISSING)}")
KINDS = ["torch", pytest.param("onnx", marks=onnx_alone)]


def pixels(files, dtype: str) -> torch.Tensor:
    """Files as a caller without this package reads them (M, 1, 28, 28)."""
    read = np.stack([np.asarray(Image.open(file)) for file in files])[:, None]
    return torch.from_numpy(read if dtype == "uint8" else read.astype(np.float32) / 255)


def answers(kind: str, file, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Of a program, read by its own runtime alone, and its metadata."""
    if kind == "torch":
        told = {FACTS: ""}
        program = torch.export.load(file, extra_files=told).module()
        return program(images), json.loads(told[FACTS])
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    facts = dict(session.get_modelmeta().custom_metadata_map)
    assert session.get_inputs()[0].name == "images" and session.get_outputs()[0].name == "probabilities"
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), facts | {
        "classes": json.loads(facts["classes"])
    }


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_answers_as_the_head_does(kind, dtype, task, tmp_path):
    file = tmp_path / "programs" / f"head.{'pt2' if kind == 'torch' else 'onnx'}"
    arguments = ("--program", kind, "--images", dtype, "--data", task.data)
    ended = call("export", task.support, file, *arguments)
    assert ended.exit_code == 0 and f"(M, 1, 28, 28) {dtype}" in ended.output and ended.output.count("\n") <= 2
    head, files = ltdi.load(task.data).generate(task.support), sorted(task.query.rglob("*.png"))
    for some in (files, files[:1], files[:7]):
        found, facts = answers(kind, file, pixels(some, dtype))
        assert_close(found, head.probabilities(some), rtol=0, atol=1e-4)
        assert_close(found.sum(1), torch.ones(len(some)))
    assert facts["classes"] == list(head.classes) and facts["images"] == dtype and facts["mode"] == "L"
    assert int(facts["size"]) == 28


def test_a_kept_head_becomes_the_same_program(task, tmp_path):
    kept, file = tmp_path / "head.safetensors", tmp_path / "head.pt2"
    task.call(task.support, "--head", kept)
    assert call("export", kept, file, "--program", "torch", "--data", task.data).exit_code == 0
    files = sorted(task.query.rglob("*.png"))
    found, _ = answers("torch", file, pixels(files, "uint8"))
    assert_close(found, ltdi.load(task.data).load_head(kept).probabilities(files), rtol=0, atol=1e-4)


def mapped(head: Head, normalise: str, projection: int | None) -> Head:
    """A linear head on features that are seen through a map."""
    extractor = replace(head.extractor, seen=None)
    features = extractor(torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8))
    seen = FeatureMap.fit(features, normalise=normalise, projection=projection)
    learner = LinearHead(seen.width)
    w = learner.linear(torch.randn(1, len(head.classes), seen.width), torch.randn(1, len(head.classes))).to(head.w)
    return replace(head, extractor=replace(extractor, seen=seen), learner=learner, w=w)


@pytest.mark.parametrize("normalise, projection", [("none", 4), ("unit", None), ("centred", None), ("centred", 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_features_are_seen_through_is_part_of_the_program(kind, normalise, projection, task, tmp_path):
    head = mapped(ltdi.load(task.data).generate(task.support), normalise, projection)
    PROGRAMS[kind](head, tmp_path / "program", images="uint8")
    files = sorted(task.query.rglob("*.png"))
    found, _ = answers(kind, tmp_path / "program", pixels(files, "uint8"))
    assert_close(found, head.probabilities(files), rtol=0, atol=1e-4)


def test_making_a_program_leaves_the_run_alone(task, tmp_path):
    head = ltdi.load(task.data).generate(task.support)
    before = head.probabilities(task.query)
    write_torch(head, tmp_path / "head.pt2", images="uint8")
    assert_close(head.probabilities(task.query), before, rtol=0, atol=0)


# --- mistakes


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_what_is_not_installed_is_said_in_one_line(name, task, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    ended = call("export", task.support, tmp_path / "head.onnx", "--program", "onnx", "--data", task.data)
    refused(ended, name, "pip install", "ltdi[export]")
    assert not (tmp_path / "head.onnx").exists()


def test_what_is_more_than_a_head_is_no_program(task, monkeypatch):
    head = ltdi.load(task.data).generate(task.support)
    monkeypatch.setattr(type(head.learner), "facts", lambda learner: {"name": "a body and a head"})
    with pytest.raises(InputError, match="ltdi makes more than a head"):
        Program(head)


def test_a_kept_head_is_of_its_own_method(task, tmp_path):
    kept = tmp_path / "head.safetensors"
    task.call(task.support, "--head", kept)
    refused(call("export", kept, tmp_path / "w", "--method", "ridge", "--data", task.data), kept, "--method")
