"""Bodies: built from their facts, with weights of their own kind alone, their images as they want them."""

import builtins
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from ltdi.bodies import embedding
from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.embedding import embed
from ltdi.bodies.registry import new_body, pretrained_body, read_body, write_body
from ltdi.bodies.resnet12 import ResNet12
from ltdi.store import write_tensors
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

SECTION = {"name": "conv4", "weights": None, "image_size": None, "filters": 4}
SMALL = "timm/test_efficientnet"


def section(**changes):
    return SECTION | changes


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def images(channels=3, side=32, n=4):
    return torch.randint(256, (n, channels, side, side), generator=generator(0, "images"), dtype=torch.uint8)


@pytest.mark.parametrize("name", ["conv4", "resnet12"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_body_is_built_again_from_its_file(name, channels, tmp_path):
    body = new_body(section(name=name), channels).eval()
    features = embed(body, images(channels))
    assert features.shape == (4, body.width) and (features >= 0).all()
    write_body(tmp_path / "body.safetensors", body, body.facts())
    for again in (
        read_body(tmp_path / "body.safetensors"),
        pretrained_body(section(name=name, weights=tmp_path / "body.safetensors"), channels),
    ):
        assert not again.training and not any(p.requires_grad for p in again.parameters())
        assert_close(embed(again, images(channels)), features, rtol=0, atol=0)


def test_a_processors_threads_share_the_images_and_change_no_bit():
    body, many = new_body(section(), 1).eval(), images(1, 28, n=40)
    assert 2 * body.images_a_pass < len(many) < 3 * body.images_a_pass
    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(embed(body, many))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found) and not found[0].requires_grad
    one_by_one = torch.cat([embed(body, each[None]) for each in many])
    assert_close(found[0], one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_size, expected", [(32, 64), (64, 64), (96, 16)])
def test_of_large_images_fewer_go_through_timms_at_once(timm, image_size, expected, monkeypatch):
    body, seen = new_body(section(name=SMALL, image_size=image_size), 3), []
    body.model.conv_stem.register_forward_hook(lambda _, given, made: seen.append(len(given[0])))
    embed(body, images(3, 20, n=65))
    assert max(seen) == expected and sum(seen) == 65
    for threads in (1, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        whole = embedding.in_memory(body, 10_000)
        assert whole % expected == 0 and whole // expected >= threads and (threads > 1 or whole <= 64)
    assert embedding.in_memory(body, 5) == 5 and embedding.in_memory(new_body(section(), 1), 500) == 500


def test_resnet12_is_as_wide_as_published_and_its_widths_are_in_its_facts():
    assert ResNet12(3).facts() == {"name": "resnet12", "channels": 3, "widths": [64, 128, 256, 512]}
    assert new_body(section(name="resnet12", filters=8), 1).widths == (8, 16, 32, 64)
    convolutions = [m for m in ResNet12(3).modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 12


def test_a_body_of_timm_takes_images_of_any_size_and_one_channel(timm, tmp_path):
    body = new_body(section(name=SMALL, image_size=48), 3).eval()
    assert body.image_size == 48 and body.width == body.model.num_features
    assert embed(body, images(3, 20)).shape == (4, body.width)
    grey = images(1, 48)
    assert_close(embed(body, grey), embed(body, grey.expand(-1, 3, -1, -1)))
    assert (
        new_body(section(name=SMALL), 3).image_size
        == timm.create_model("test_efficientnet").default_cfg["input_size"][-1]
    )


def test_it_normalises_as_timm_says_and_pools_as_timm_does(timm):
    body = new_body(section(name=SMALL, image_size=48), 3).eval()
    config = timm.data.resolve_model_data_config(body.model)
    mean, deviation = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = body.model((images(3, 48) / 255 - mean) / deviation)
        assert_close(body(images(3, 48)), expected)
        assert_close(body(images(3, 48) / 255), expected)


def test_weights_in_timms_keys_are_taken_and_the_classifier_left_out(timm, tmp_path):
    model = timm.create_model("test_efficientnet", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    hparams = section(name=SMALL, image_size=48, weights=tmp_path / "timm.safetensors")
    body = pretrained_body(hparams, 3)
    assert_close(body.model.state_dict(), {k: v for k, v in model.state_dict().items() if "classifier" not in k})
    # as it is kept by the stage, and read back where it is named as weights again
    write_body(tmp_path / "body.safetensors", body, body.facts())
    for again in (
        read_body(tmp_path / "body.safetensors"),
        pretrained_body(hparams | {"weights": tmp_path / "body.safetensors"}, 3),
    ):
        assert_close(embed(again, images()), embed(body, images()), rtol=0, atol=0)


def test_a_model_of_one_image_size_is_built_for_another(timm):
    body = new_body(section(name="timm/test_vit", image_size=64), 3).eval()
    assert embed(body, images(3, 32)).shape == (4, body.width)


def refused(hparams, *words, channels=3, build=pretrained_body):
    with pytest.raises(InputError) as caught:
        build(hparams, channels)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


def test_an_unknown_name_is_one_line(timm):
    refused(section(name="timm/nonsense"), "body.name = timm/nonsense", "allowed", build=new_body)
    refused(section(name="timm/efficientnet_lite99"), "timm/efficientnet_lite", build=new_body)
    refused(section(name="conv5"), "body.name = 'conv5'", "resnet12", build=new_body)


def test_weights_of_another_model_are_one_line(timm, tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    hparams = section(name=SMALL, weights=tmp_path / "other.safetensors")
    refused(hparams, "body.weights", "does not fit body.name = timm/test_efficientnet")
    half = {k: v[:1] if v.dim() == 4 else v for k, v in timm.create_model("test_efficientnet").state_dict().items()}
    save_file({k: v.clone() for k, v in half.items()}, tmp_path / "half.safetensors")
    refused(section(name=SMALL, weights=tmp_path / "half.safetensors"), "in the file and", "in the model")
    other = new_body(section(name="timm/test_resnet"), 3)
    write_body(tmp_path / "body.safetensors", other, other.facts())
    refused(section(name=SMALL, weights=tmp_path / "body.safetensors"), "holds a body of", "test_resnet")


def test_a_missing_or_broken_file_is_one_line(timm, tmp_path):
    refused(section(name=SMALL, weights=tmp_path / "none.safetensors"), "none.safetensors", "hub")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    refused(section(name=SMALL, weights=tmp_path / "broken.safetensors"), "broken.safetensors")


def test_a_hub_that_cannot_be_reached_is_one_line(timm, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(timm, "create_model", unreachable)
    refused(section(name=SMALL, weights="hub"), "hub", "safetensors file", "no route")


def test_what_belongs_to_other_bodies_is_refused():
    refused(section(weights="hub"), "body.weights = hub", "conv4")
    refused(section(image_size=64), "body.image_size = 64", "null", build=new_body)


def test_without_timm_a_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("timm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(section(name=SMALL), "pip install", "ltdi[photos]", build=new_body)


@pytest.mark.slow
def test_importing_bodies_does_not_import_timm():
    code = "import sys, ltdi.bodies, ltdi.inference.run; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("kind", ["cut", "altered", "of another kind"])
def test_nobody_is_told_to_delete_a_body_of_their_own(kind, tmp_path):
    own = tmp_path / "body.safetensors"
    body = Conv4(3, filters=4)
    if kind == "of another kind":
        write_tensors(own, body.state_dict(), {"name": "conv4"}, kind="head")
    else:
        write_body(own, body, body.facts())
        content = bytearray(own.read_bytes())
        content[-1] ^= 1
        own.write_bytes(content[:-9] if kind == "cut" else content)
    with pytest.raises(InputError, match=r"^[^\n]*; name another file with body.weights, or null[^\n]*$") as caught:
        pretrained_body(section(weights=own), 3)
    assert "delete it" not in str(caught.value)
    with pytest.raises(InputError, match=r"delete it and run `dvc repro`$"):
        read_body(own)
