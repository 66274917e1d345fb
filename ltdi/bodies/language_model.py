"""A text encoder of ``transformers`` with a classification head, frozen: read, cut at a layer, run on texts.

``transformers`` is imported when a model is read and not before: it is an optional extra.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.store import digest
from ltdi.utils.devices import device
from ltdi.utils.errors import InputError
from ltdi.utils.nn import masked_mean

OF_FIRST_TOKEN = ("bert", "roberta", "xlm-roberta")
"""Kinds of models, of one structure, whose head reads the first token alone."""

TOGETHER, ON_GPU = 64, 1024

NEEDED = "needs the package {}, which is not installed; pip install 'ltdi[adapters]'"


class Encoder:
    """A frozen sequence classifier of ``n_classes`` classes, from a folder or by its name on the hub.

    ``ltdi.bodies.sentence_encoder`` has another,
    which embeds sentences: that one is only ever called as a whole and may be CLIP, whose
    two towers are no layers after embeddings and have no head.

    What its checkpoint lacks, e.g. a dense layer before the last, is drawn from one seed, so that it is the same
    everywhere. Its last layer, ``head``, is no part of what is frozen.

    Raises:
        InputError: ``transformers`` is missing, there is no such model, or it is no encoder of layers after embeddings.
    """

    def __init__(self, name: str, n_classes: int) -> None:
        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging
        except ImportError as error:
            raise InputError(f"a language model {NEEDED.format('transformers')}") from error
        self.name, self.n_classes = name, n_classes
        before = logging.get_verbosity()
        try:
            # what the checkpoint lacks is meant to be drawn, and needs no report
            logging.set_verbosity_error()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.model, read = AutoModelForSequenceClassification.from_pretrained(
                    name, num_labels=n_classes, output_loading_info=True, dtype=torch.float32
                )
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"texts.body = {name}: no model and tokenizer of transformers there ({reason})") from error
        finally:
            logging.set_verbosity(before)
        self.model.eval().requires_grad_(False)
        self.width = int(self.model.config.hidden_size)
        self.layers, self.depth = _layers_of(self.model)
        self.head = _head_of(self.model, n_classes)
        self.drawn = sorted({key.rpartition(".")[0] for key in read["missing_keys"]} - {self.head})
        """The modules that the checkpoint lacks, besides the head."""
        own = {key: value for key, value in self.model.state_dict().items() if not key.startswith(f"{self.head}.")}
        self.digest = digest(own)

    def tokens(self, texts: Sequence[tuple[str, ...]], length: int) -> dict[str, Tensor]:
        """Texts, or pairs of texts, as what the model takes, each (M, ``length``): cut where longer."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        padding = {"truncation": True, "padding": "max_length", "max_length": length, "return_tensors": "pt"}
        return dict(self.tokenizer(*columns, **padding))

    @property
    def texts_together(self) -> int:
        """How many a pass reads: a GPU has more units than a few texts keep busy."""
        return ON_GPU if device().type == "cuda" else TOGETHER

    @torch.no_grad()
    def read(self, tokens: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
        """What the frozen model makes of tokens (M, L): ``hidden`` (M, L, H), what layer number ``layer`` is given, and
        of the first layer what the embeddings are given, a hundredth of that: numbers of tokens and of their texts
        (M, L, 2); ``mask`` (M, L), which tokens are there; ``embedding`` (M, H), the mean of the last layer over
        these."""
        # parts of it may have been moved with a learner that has these
        self.model.to(device())
        there = {name: value.to(self.model.device) for name, value in tokens.items()}
        states, mask = self.model.base_model(**there, output_hidden_states=True).hidden_states, there["attention_mask"]
        hidden = states[layer] if layer else _numbers(there)
        return {"hidden": hidden, "mask": mask, "embedding": masked_mean(states[-1], mask.to(states[-1]))}

    def above(self, layer: int) -> nn.Module:
        """The model from layer number ``layer`` on, its weights shared with the whole one. It is called with what
        ``read`` says of this layer as ``inputs_embeds`` (M, L, …), and a mask of four axes, which is added to the
        attention's scores. Where its head reads the first token alone, its last layer computes no other."""
        weights = (*self.model.parameters(), *self.model.buffers())
        cut = copy.deepcopy(self.model, {id(each): each for each in weights})
        cut.base_model.embeddings = _Given() if layer else _Numbers(cut.base_model.embeddings)
        place, _, name = self.layers.rpartition(".")
        setattr(cut.get_submodule(place), name, cut.get_submodule(self.layers)[layer:])
        if self.model.config.model_type in OF_FIRST_TOKEN:
            last: Any = cut.get_submodule(self.layers)[-1]
            last.forward = partial(_first_token, last)
        return cut

    def linear(self, layer: int, module: str) -> nn.Linear:
        """The linear module of this name in a layer."""
        return self.model.get_submodule(f"{self.layers}.{layer}.{module}")

    def linears(self, modules: Sequence[str]) -> list[str]:
        """Of the linear modules of a layer those that have one of these last names, by their names in the layer.

        Raises:
            InputError: there is none of a name.
        """
        layer = self.model.get_submodule(self.layers)[0]
        there = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
        for module in modules:
            if not any(name.rpartition(".")[2] == module for name in there):
                allowed = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in there))
                raise InputError(f"learner.modules = {module} is not in a layer of {self.name}; allowed: {allowed}")
        return [name for name in there if name.rpartition(".")[2] in modules]


@lru_cache(maxsize=2)
def read_encoder(name: str, n_classes: int) -> Encoder:
    """An encoder, read once."""
    return Encoder(name, n_classes)


class _Given(nn.Module):
    """In place of the embeddings: hidden states that are known already."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Tensor:
        return inputs_embeds


class _Numbers(nn.Module):
    """The embeddings, of numbers of tokens and of their texts (M, L, 2)."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.of_texts = "token_type_ids" in signature(embeddings.forward).parameters

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> Tensor:
        tokens, texts = inputs_embeds.unbind(-1)
        return self.embeddings(input_ids=tokens, **({"token_type_ids": texts} if self.of_texts else {}))


def _numbers(tokens: Mapping[str, Tensor]) -> Tensor:
    """(M, L, 2)"""
    of_texts = tokens.get("token_type_ids", torch.zeros_like(tokens["input_ids"]))
    return torch.stack([tokens["input_ids"], of_texts], -1).int()


def _first_token(layer: Any, x: Tensor, mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a layer of BERT makes of the first token, x (M, L, H) -> (M, 1, H): keys and values are of all tokens."""
    attention, first = layer.attention.self, x[:, :1]
    maps = ((attention.query, first), (attention.key, x), (attention.value, x))
    q, k, v = (linear(of).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2) for linear, of in maps)
    seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, :, :1])
    return layer.feed_forward_chunk(layer.attention.output(seen.transpose(1, 2).flatten(2), first))


def _layers_of(model: nn.Module) -> tuple[str, int]:
    """The name of the list of layers in the model, and how many these are."""
    depth = getattr(model.config, "num_hidden_layers", 0)
    found = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not found or not isinstance(getattr(model.base_model, "embeddings", None), nn.Module):
        raise InputError(
            f"texts.body: {type(model).__name__} is no encoder of layers after embeddings, as BERT, RoBERTa and"
            " DistilBERT are; name another model"
        )
    return found[0], depth


def _head_of(model: nn.Module, n_classes: int) -> str:
    """The name of the last linear module, which gives the logits."""
    *_, name = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if model.get_submodule(name).out_features != n_classes:
        raise InputError(f"texts.body: {name} of {type(model).__name__} does not give {n_classes} logits; name another")
    return name
