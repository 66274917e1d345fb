"""LoRA: the frozen model where nothing is added, peft's forward where something is, and tasks that stand side by
side."""

from itertools import repeat

import pytest
import torch
from language import sentence, write_bert
from torch import nn
from torch.testing import assert_close

from bench.adapters import dylora
from ltdi.learners import learner_of
from ltdi.learners.fitting import adapt, gradient
from ltdi.learners.lora import Lora
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

pytest.importorskip("transformers")

KNOBS = {"rank": 2, "alpha": 6.0, "modules": ("query", "value")}
B, M, L = 3, 4, 12


@pytest.fixture(scope="module", params=["bert", "roberta"])
def body(request, tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("model") / request.param, kind=request.param)


@pytest.fixture(scope="module", params=[None, 2])
def learner(request, body):
    return Lora(body, layers=request.param, **KNOBS)


@pytest.fixture(scope="module")
def texts():
    """Pairs of unequal lengths (B·M)."""
    stream = generator(0, "texts")
    lengths = torch.randint(1, 6, (B * M, 2), generator=stream).tolist()
    return [tuple(sentence(torch.randint(0, 60, (n,), generator=stream)) for n in pair) for pair in lengths]


@pytest.fixture(scope="module")
def batch(learner, texts):
    read = learner.encoder.read(learner.encoder.tokens(texts, L), learner.lowest)
    labels = torch.randint(0, 2, (B, M), generator=generator(0, "labels"))
    return {name: read[name].unflatten(0, (B, M)) for name in ("hidden", "mask")} | {"labels": labels}


def random_weights(learner, n_tasks=B):
    return 0.3 * torch.randn(n_tasks, learner.space.dim(2), generator=generator(0, "weights"))


def with_head(learner, w, weight, bias):
    tensors = learner.space.unflatten(w)
    n = len(w)
    return learner.space.flatten(tensors | {"head.weight": weight.expand(n, -1, -1), "head.bias": bias.expand(n, -1)})


def logits(learner, w, batch):
    return learner.logits(w, batch["hidden"], batch["mask"])


def test_no_change_is_the_frozen_model(learner, texts, batch):
    model = learner.encoder.model
    head = model.get_submodule(learner.encoder.head)
    initialization = with_head(learner, learner.initial(B, 2, generator(0, "initialization")), head.weight, head.bias)
    with torch.no_grad():
        whole = model(**learner.encoder.tokens(texts, L)).logits
    assert_close(logits(learner, initialization, batch).flatten(0, 1), whole, rtol=1e-5, atol=1e-5)
    # of one arithmetic, to the bit: what is added is zero, and nothing else has changed
    removed = learner.space.unflatten(initialization)
    removed |= {name: torch.zeros_like(value) for name, value in removed.items() if name.endswith("lora_A.weight")}
    assert logits(learner, initialization, batch).equal(logits(learner, learner.space.flatten(removed), batch))


def added(change):
    return lambda _, args, out: out + args[0] @ change.mT


def instead(weight, bias):
    return lambda _, args, out: args[0] @ weight.mT + bias


def test_it_is_the_definition(learner, texts, batch):
    """W + (alpha / r) B A put in the place of W."""
    w = random_weights(learner)
    tensors = learner.space.unflatten(w)
    found = logits(learner, w, batch)
    encoder = learner.encoder
    for j in range(B):
        hooks = []
        for layer, module in learner.adapted:
            a, b = (tensors[f"{layer}.{module}.{part}.weight"][j] for part in ("lora_A", "lora_B"))
            change = KNOBS["alpha"] / KNOBS["rank"] * b.mT @ a
            hooks.append(encoder.linear(layer, module).register_forward_hook(added(change)))
        weight, bias = tensors["head.weight"][j], tensors["head.bias"][j]
        hooks.append(encoder.model.get_submodule(encoder.head).register_forward_hook(instead(weight, bias)))
        with torch.no_grad():
            whole = encoder.model(**encoder.tokens(texts[j * M : (j + 1) * M], L)).logits
        for hook in hooks:
            hook.remove()
        assert_close(found[j], whole, rtol=1e-4, atol=1e-4)


def test_a_task_does_not_depend_on_its_neighbours(learner, batch):
    w = random_weights(learner)
    together = logits(learner, w, batch)
    alone = [logits(learner, w[j : j + 1], {name: value[j : j + 1] for name, value in batch.items()}) for j in range(B)]
    assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    losses, scores = learner.loss(w, batch), learner.score(w, batch)
    expected = [nn.functional.cross_entropy(together[j], batch["labels"][j]) for j in range(B)]
    assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert_close(scores, (together.argmax(-1) == batch["labels"]).float().mean(1), rtol=0, atol=0)


def test_padding_and_the_order_of_the_texts_change_nothing(learner, batch):
    """Texts go through the model by their lengths, without what pads them, and come back in their order."""
    w, whole = random_weights(learner), logits(learner, random_weights(learner), batch)
    turned = torch.stack([torch.randperm(M, generator=generator(0, "order", j)) for j in range(B)])
    moved = {name: torch.stack([value[j][turned[j]] for j in range(B)]) for name, value in batch.items()}
    expected = whole.take_along_dim(turned[..., None], 1)
    assert_close(logits(learner, w, moved), expected, rtol=1e-5, atol=1e-5)
    padded = {"hidden": nn.functional.pad(batch["hidden"], (0, 0, 0, 9), value=7.0)}
    padded["mask"] = nn.functional.pad(batch["mask"], (0, 9))
    assert_close(logits(learner, w, padded), whole, rtol=1e-5, atol=1e-5)


def test_only_the_first_token_is_computed_in_the_last_layer(learner, batch):
    seen = []
    last = learner.network.get_submodule(learner.encoder.layers)[-1]
    hook = last.intermediate.register_forward_hook(lambda _, args, out: seen.append(args[0].shape))
    logits(learner, random_weights(learner), batch)
    hook.remove()
    assert sum(shape[0] for shape in seen) == B * M and all(shape[1] == 1 for shape in seen)


def test_an_absent_input_counts_nowhere(learner, batch):
    w, few = random_weights(learner), {name: value[:, :2] for name, value in batch.items()}
    labels = batch["labels"].clone()
    labels[:, 2:] = -100
    masked = batch | {"labels": labels}
    assert_close(learner.loss(w, masked), learner.loss(w, few), rtol=1e-5, atol=1e-5)
    assert_close(learner.score(w, masked), learner.score(w, few), rtol=0, atol=0)


def test_classes_are_interchangeable(learner, batch):
    w = random_weights(learner)
    tensors = learner.space.unflatten(w)
    turned = with_head(learner, w, tensors["head.weight"].flip(1), tensors["head.bias"].flip(1))
    assert_close(logits(learner, turned, batch), logits(learner, w, batch).flip(-1), rtol=1e-5, atol=1e-5)


def test_training_lowers_every_loss_and_leaves_the_model_alone(learner, batch):
    before = {name: value.clone() for name, value in learner.encoder.model.state_dict().items()}
    initialization = learner.initial(B, 2, generator(0, "initialization"))
    path = adapt(learner.loss, initialization, iter([batch] * 31), optimizer="adam", lr=1e-2, record=[0, 30])
    assert (path.losses[:, 1] < 0.9 * path.losses[:, 0]).all()
    assert_close(path.losses[:, 0], torch.full((B,), 2.0).log(), rtol=1e-5, atol=1e-5)
    assert_close(dict(learner.encoder.model.state_dict()), before, rtol=0, atol=0)


def test_layers_of_a_module_are_of_one_kind(learner):
    kinds = learner.space.kinds
    assert len(set(kinds.values())) == 5 and kinds["head"] == "head"
    assert len(kinds) == 4 * (learner.layers or 3) + 1
    assert learner.space.sizes(learner.space.dim(2)) == [(2, 32)] * (len(kinds) - 1) + [(2, 33)]


def test_facts_make_it_again(learner, body, batch):
    again = learner_of(learner.facts())
    assert again.facts() == learner.facts()
    w = random_weights(learner)
    assert logits(again, w, batch).equal(logits(learner, w, batch))
    with pytest.raises(InputError, match="altered since these weights were made"):
        learner_of(learner.facts() | {"digest": "other"})


def test_mistakes_are_one_line(body, tmp_path):
    def refused(expected, body=body, **changes):
        with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            Lora(body, **(KNOBS | changes))

    refused("learner.modules = quiry is not in a layer of .*; allowed: query, key, value, dense", modules=["quiry"])
    refused("learner.layers = 9 is more than the 3 of", layers=9)
    refused("texts.body = .*nowhere: no model and tokenizer of transformers there", body=str(tmp_path / "nowhere"))


def test_a_prefix_of_dylora_is_lora_of_that_rank(learner, body, batch):
    w = random_weights(learner)
    low = Lora(body, rank=1, alpha=KNOBS["alpha"], modules=KNOBS["modules"], layers=learner.layers)
    tensors = {
        name: value if name.startswith("head.") else value[:, :1] for name, value in learner.space.unflatten(w).items()
    }
    assert_close(logits(learner, dylora.prefix(learner, w, 1), batch), logits(low, low.space.flatten(tensors), batch))
    assert_close(dylora.prefix(learner, w, 2), w, rtol=0, atol=0)
    g, _ = gradient(lambda w, batch: learner.loss(dylora.prefix(learner, w, 1), batch), w, batch)
    for name, value in learner.space.unflatten(g).items():
        if not name.startswith("head."):
            assert value[:, 0].any() and not value[:, 1].any()


def test_every_prefix_of_dylora_learns(learner, batch):
    initialization = learner.initial(B, 2, generator(0, "initialization"))
    stream = generator(0, "ranks")
    w = dylora.train(learner, initialization, repeat(batch), steps=40, lr=1e-2, stream=stream)
    for rank in (1, 2):
        prefixed = dylora.prefix(learner, w, rank)
        assert (learner.loss(prefixed, batch) < 0.9 * learner.loss(initialization, batch)).all()
