"""Names as rows of a text encoder."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from text_encoders import write_encoder
from torch.testing import assert_close

import ltdi.bodies.sentence_encoder
from ltdi.bodies.sentence_encoder import PROMPTS, SentenceEncoder, embed_names, read_descriptions, sentences_of
from ltdi.utils.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def test_a_row_of_unit_length_a_name(folder):
    rows = embed_names(folder, ["zebra", "okapi"], prompts="photos")
    assert rows.shape == (2, 16)
    assert_close(rows.norm(dim=-1), torch.ones(2))


def test_it_is_the_mean_over_the_tokens_that_are_there(folder):
    """A short sentence beside a long one is as it is alone, and as transformers' own states say."""
    encoder = SentenceEncoder(folder)
    both = encoder(["zebra", "a bad photo of the large green horse"])
    assert_close(both[:1], encoder(["zebra"]), rtol=1e-5, atol=1e-6)
    states = encoder.model(**encoder.tokenizer(["zebra"], return_tensors="pt")).last_hidden_state
    assert_close(both[0], F.normalize(states[0].mean(0), dim=-1), rtol=1e-5, atol=1e-6)


def test_prompts_are_averaged(folder):
    encoder = SentenceEncoder(folder)
    rows = encoder([template.format("zebra") for template in PROMPTS["photos"]])
    expected = F.normalize(rows.mean(0), dim=-1)
    assert_close(embed_names(folder, ["zebra"], prompts="photos")[0], expected, rtol=1e-5, atol=1e-6)


def test_a_description_is_one_more_sentence(folder):
    assert sentences_of("zebra", "name", {"zebra": "a small horse"}) == ["zebra", "zebra: a small horse"]
    plain, told = (embed_names(folder, ["zebra"], prompts="name", descriptions=d) for d in ({}, {"zebra": "red"}))
    assert not torch.equal(plain, told)


def test_more_names_than_are_embedded_together(folder, monkeypatch):
    monkeypatch.setattr(ltdi.bodies.sentence_encoder, "SENTENCES_TOGETHER", 2)
    few = SentenceEncoder(folder)(["zebra", "okapi", "tapir", "dog", "cat"])
    monkeypatch.undo()
    assert_close(few, SentenceEncoder(folder)(["zebra", "okapi", "tapir", "dog", "cat"]), rtol=1e-5, atol=1e-6)


def test_embeddings_are_cached_by_content(folder, monkeypatch):
    first = embed_names(folder, ["zebra"], prompts="photo")
    monkeypatch.setattr(SentenceEncoder, "__call__", lambda *_: pytest.fail("embedded again"))
    assert_close(embed_names(folder, ["zebra"], prompts="photo"), first, rtol=0, atol=0)
    with pytest.raises(pytest.fail.Exception):
        embed_names(folder, ["zebra"], prompts="name")


def test_a_projection_onto_images_is_used_where_there_is_one(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = sizes | {"vocab_size": 30, "max_position_embeddings": 32, "eos_token_id": 3, "bos_token_id": 2}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    write_encoder(tmp_path)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    assert SentenceEncoder(tmp_path)(["zebra", "okapi"]).shape == (2, 6)


# --- mistakes


@pytest.mark.slow
def test_importing_the_package_imports_no_transformers():
    modules = "ltdi.bodies.sentence_encoder, ltdi.inference.run, ltdi.scenarios"
    code = f"import sys, {modules}; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"^[^\n]*not installed; pip install 'ltdi\[names\]'$"):
        SentenceEncoder(folder)


def test_bad_input_is_one_line(folder, tmp_path):
    def refused(what, expected):
        with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            what()

    refused(lambda: SentenceEncoder(tmp_path / "nothing"), "nothing: no text encoder")
    refused(lambda: embed_names(folder, ["zebra"], prompts="poem"), "prompts = 'poem' are unknown; allowed: name")
    refused(lambda: embed_names(folder, ["zebra", " "], prompts="name"), "name is empty")
    refused(lambda: read_descriptions(tmp_path / "none.tsv"), "no such file")
    (tmp_path / "bad.tsv").write_text("zebra a horse\n")
    refused(lambda: read_descriptions(tmp_path / "bad.tsv"), "line 1 has no tab")


def test_descriptions_are_read(tmp_path):
    (tmp_path / "good.tsv").write_text("zebra\ta striped horse\n\nokapi\ta forest giraffe\n")
    assert read_descriptions(tmp_path / "good.tsv") == {"zebra": "a striped horse", "okapi": "a forest giraffe"}
