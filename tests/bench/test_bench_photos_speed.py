"""The speed of photographs: the plain loop is the same model, and what is drawn from two peaks."""

import re

import pytest
import torch
from safetensors.torch import save_file

from bench.speed import photos as photos_speed
from ltdi.bodies.embedding import embed
from ltdi.bodies.registry import pretrained_body
from ltdi.datasets.image_files import Streamed

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("body") / "lite0.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(photos_speed.NAME, num_classes=0).state_dict(), file)
    return str(file)


def test_the_plain_loop_is_of_the_same_model(weights, tmp_path, monkeypatch):
    """On files that neither has to crop or scale."""
    files = photos_speed.made_files(tmp_path / "images", 3)
    assert photos_speed.Image.open(files[0]).size == photos_speed.SHAPE[::-1]
    side = round(photos_speed.SIZE / 0.875)
    monkeypatch.setattr(photos_speed, "SHAPE", (side, side))
    files = photos_speed.made_files(tmp_path / "of that size", 3)
    body = pretrained_body(photos_speed._section(weights), 3)
    pixels = Streamed(tuple(files), "RGB", side)[:]
    border = (side - photos_speed.SIZE) // 2
    cut = pixels[..., border : border + photos_speed.SIZE, border : border + photos_speed.SIZE]
    plain = photos_speed.plain_loop(body, files, torch.contiguous_format)()
    assert (embed(body, cut) - plain).norm() < 0.02 * plain.norm()


def test_a_line_is_drawn_through_two_peaks(monkeypatch, tmp_path):
    seen = []

    def watched(command, env):
        seen.append(int(command[-1]))
        return 500 + 0.01 * seen[-1], 1.0

    monkeypatch.setattr(photos_speed, "watched", watched)
    lines = photos_speed.memory("hub", tmp_path)
    assert tuple(seen) == photos_speed.MANY and ["50,000, extrapolated", "1000 MiB"] in lines


def test_a_rate_and_its_ratio_are_told(weights, tmp_path):
    lines = photos_speed.embedding_rates(weights, photos_speed.made_files(tmp_path / "images", 2), 1)
    assert len(lines) == 2
    for _, rate, ratio in lines:
        assert float(rate) > 0 and re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", ratio)
