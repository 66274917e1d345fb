"""Folders of peft: what is written is what peft computes, and what peft trains is what is read."""

import json
import shutil

import pytest
import torch
from language import sentence, write_bert
from torch.testing import assert_close

from ltdi.learners.lora import Lora
from ltdi.learners.peft_io import CONFIG, TENSORS, read_adapter, write_adapter
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

MODELS = {"bert": {}, "bert without a pooler": {"pooler": False}, "roberta": {"kind": "roberta"}}
M, L = 6, 12


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def body(request, tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("model") / "model", **request.param)


@pytest.fixture(scope="module")
def texts():
    stream = generator(0, "texts")
    return [(sentence(torch.randint(0, 60, (2 + j,), generator=stream)),) for j in range(M)]


def model_of(body, seed=7):
    """The model as a user reads it: what the checkpoint lacks is drawn anew."""
    torch.manual_seed(seed)
    return transformers.AutoModelForSequenceClassification.from_pretrained(body, num_labels=2).eval()


def theirs(model, learner, texts):
    with torch.no_grad():
        return model.eval()(**learner.encoder.tokens(texts, L)).logits


def ours(learner, w, texts):
    read = learner.encoder.read(learner.encoder.tokens(texts, L), learner.lowest)
    return learner.logits(w[None], read["hidden"][None], read["mask"][None])[0]


def weights(learner):
    return 0.3 * torch.randn(learner.space.dim(2), generator=generator(0, "weights"))


def trained(body, config, texts, steps=3):
    """A model of peft after a few steps on all that it says is to be trained."""
    model = peft.get_peft_model(model_of(body), config).train()
    inputs = Lora(body, rank=1, alpha=1, modules=["query"]).encoder.tokens(texts, L)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        model(**inputs, labels=torch.arange(M) % 2).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("modules", [["query", "value"], ["key"], ["query", "dense"]], ids=str)
@pytest.mark.parametrize("layers", [None, 1])
def test_what_is_written_is_what_peft_computes(body, texts, modules, layers, tmp_path):
    learner = Lora(body, rank=3, alpha=5.0, modules=modules, layers=layers)
    w = weights(learner)
    write_adapter(tmp_path / "adapter", learner, w)
    model = peft.PeftModel.from_pretrained(model_of(body), str(tmp_path / "adapter"))
    assert_close(ours(learner, w, texts), theirs(model, learner, texts), rtol=1e-5, atol=1e-5)
    again, same = read_adapter(tmp_path / "adapter")
    assert same.equal(w) and again.facts() == learner.facts()


@pytest.mark.parametrize(
    "hparams",
    [
        {"target_modules": ["query", "value"]},
        {"target_modules": ["value"], "layers_to_transform": [1, 2]},
        {"target_modules": ["query"], "layers_to_transform": [1]},
        {"target_modules": ["query", "key"], "use_rslora": True},
    ],
    ids=str,
)
def test_what_peft_trains_is_what_is_read(body, texts, hparams, tmp_path):
    model = trained(body, peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=10, **hparams), texts)
    model.save_pretrained(tmp_path)
    learner, w = read_adapter(tmp_path)
    lacking = [name for name in learner.encoder.drawn if "pooler" in name]
    if lacking:  # drawn anew by whoever reads the model, peft too
        model.base_model.model.bert.pooler.load_state_dict(learner.encoder.model.bert.pooler.state_dict())
    assert_close(ours(learner, w, texts), theirs(model, learner, texts), rtol=1e-5, atol=1e-5)
    write_adapter(tmp_path / "again", learner, w)
    again = peft.PeftModel.from_pretrained(model_of(body), str(tmp_path / "again"))
    assert_close(ours(learner, w, texts), theirs(again, learner, texts), rtol=1e-5, atol=1e-5)


def test_a_replaced_head_stays_with_its_learner(tmp_path, texts):
    body = write_bert(tmp_path / "model", kind="roberta")
    trained(body, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]), texts).save_pretrained(
        tmp_path / "adapter"
    )
    learner, w = read_adapter(tmp_path / "adapter")
    other = Lora(body, rank=2, alpha=8, modules=["query"])
    assert not torch.equal(ours(learner, w, texts), ours(other, w, texts))
    assert other.encoder is learner.encoder


def test_names_of_classes_are_kept_and_a_model_beside_is_not_lost(tmp_path):
    body = write_bert(tmp_path / "model")
    learner = Lora(body, rank=2, alpha=4, modules=["query"])
    learner.classes = ("neg", "größer")
    write_adapter(tmp_path / "adapter", learner, weights(learner))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "adapter")
    assert config.id2label == {0: "neg", 1: "größer"} and config.label2id == {"neg": 0, "größer": 1}
    assert read_adapter(tmp_path / "adapter")[0].classes == learner.classes
    model = transformers.AutoModelForSequenceClassification.from_pretrained(body, config=config)
    model = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    assert model.config.id2label == config.id2label
    write_adapter(tmp_path / "adapter", learner, weights(learner))
    with pytest.raises(InputError, match=r"^[^\n]*holds a config.json and no adapter; name another folder[^\n]*$"):
        write_adapter(tmp_path / "model", learner, weights(learner))


OTHERS = {
    "ADALORA": lambda: peft.AdaLoraConfig(task_type="SEQ_CLS", target_modules=["query"], total_step=10),
    "FOURIERFT": lambda: peft.FourierFTConfig(task_type="SEQ_CLS", target_modules=["query"], n_frequency=10),
    "VERA": lambda: peft.VeraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_in_one_line(kind, tmp_path):
    body = write_bert(tmp_path / "model")
    peft.get_peft_model(model_of(body), OTHERS[kind]()).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match=f"^[^\n]*an adapter of kind '{kind}'[^\n]*allowed: LORA$"):
        read_adapter(tmp_path / "adapter")


def test_what_is_not_read_is_said_in_one_line(tmp_path):
    body = write_bert(tmp_path / "model")
    learner = Lora(body, rank=2, alpha=4, modules=["query"])
    write_adapter(tmp_path / "adapter", learner, weights(learner))
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())

    def refused(expected, **changes):
        folder = tmp_path / "changed"
        shutil.copytree(tmp_path / "adapter", folder, dirs_exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            read_adapter(folder)

    refused("use_dora = True .* is not read; allowed: False", use_dora=True)
    refused("target_modules = '.*query' is a pattern; name the modules in a list", target_modules=".*query")
    refused(r"lora_A.weight is of shape \(2, 32\), not \(3, 32\)", r=3)
    refused("learner.modules = conv is not in a layer", target_modules=["conv"])
    (tmp_path / "adapter" / TENSORS).write_bytes(b"none")
    refused("no safetensors file")
