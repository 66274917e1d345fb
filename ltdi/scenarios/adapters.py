"""Adapters of a language model (the paper's Table 5): LoRA matrices and a head for data that nobody has fine-tuned on.

Tasks are sub-tasks of data sets of labelled texts, and meta-test ones of data sets held out whole. What is known of a
task is the frozen model's embeddings of a few labelled examples, a row each.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ltdi.bodies.language_model import Encoder
from ltdi.bodies.sentence_encoder import sentence_encoder
from ltdi.bodies.text_encoder import TextEncoder
from ltdi.datasets.text_files import PARTS, read_text_set, thinned
from ltdi.scenarios.base import Prepared, Pretraining
from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.store.schemas import SPLITS
from ltdi.tasks.text_examples import Examples
from ltdi.tasks.text_pairs import Pairs, some_pairs
from ltdi.tasks.text_tasks import Reading, TextTasks
from ltdi.utils.devices import device
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

# queries of these are of the part of a data set that it keeps apart
APART = ("meta_val", "meta_test")


class Adapters:
    """Adapters of a language model from a few labelled examples."""

    source: ClassVar[str] = "texts"
    provides: ClassVar[frozenset[str]] = frozenset({"examples"})
    data: ClassVar[str] = "texts"
    learners: ClassVar[tuple[str, ...]] = ("lora",)

    def pretrain(
        self, data: Mapping[str, Any], body: Mapping[str, Any], *, seed: int, device: torch.device
    ) -> Pretraining:
        """Nothing is trained: the model is there, and its place and digest are kept."""
        frozen = TextEncoder(data["body"])
        facts = {"name": "text_encoder", "body": data["body"], "digest": frozen.encoder.digest}
        return Pretraining(frozen, facts, dict)

    def prepare(
        self, frozen: nn.Module, data: Mapping[str, Any], tasks: Mapping[str, Any], *, seed: int, follow: Callable
    ) -> Prepared:
        """What the lowest adapted layer is given and the embedding of every text, once, and the tasks of the splits."""
        assert isinstance(frozen, TextEncoder)
        if tasks["n_way"] != 2:
            raise InputError(f"tasks.n_way = {tasks['n_way']}: adapters are made for two classes; set 2")
        encoder = frozen.encoder
        reading = {"body": encoder.name, "digest": encoder.digest, "layers": data["layers"]}
        reading |= {"share": data["share"], "views": 1 + tasks["views"]}
        kept: dict[str, Tensor] = {}
        tables, notes = [], []
        for split in SPLITS:
            of, found = _examples(encoder, data, split, seed, follow)
            kept |= of.tensors(split)
            notes += found
            sizes = {key: tasks[key] for key in ("n_shot", "n_query")} | {"n_fitted": data["fitted"]}
            how = Reading(**reading, apart=split in APART)
            sampled = TextTasks.sample(of, how, n_tasks=tasks[split], **sizes, seed=seed, split=split)
            tables.append(sampled.to_table())
            tables[-1].insert(0, "split", split)
        if data["pairs"]:
            kept |= _pairs(encoder, data, seed, follow).tensors()
        facts = {
            "reading": reading,
            "apart": list(APART),
            "length": data["length"],
            "data_sets": {split: data[split] for split in SPLITS},
        }
        line = ", ".join(f"{split}: {tasks[split]} tasks from {' '.join(data[split])}" for split in SPLITS)
        line = "; ".join([line, *dict.fromkeys(notes)])
        return Prepared({"examples": (kept, facts)}, pd.concat(tables, ignore_index=True), line)


def _pairs(encoder: Encoder, data: Mapping[str, Any], seed: int, follow: Callable) -> Pairs:
    """Pairs of the texts of meta-training's train parts, of each data set as many, as the encoder reads them, and their
    likeness."""
    texts: list[str] = []
    sets: list[int] = []
    given: list[tuple[int, int]] = []
    for group, name in enumerate(data["meta_train"]):
        of = read_text_set(Path(data["root"]), name, PARTS[:1])
        n_texts = max(2, data["pairs"] // len(data["meta_train"]))
        some, _ = thinned(of.texts["train"], of.labels["train"], n_texts, seed)
        for each in some:
            given += [(len(texts), len(texts) + 1)] if len(each) == 2 else []
            texts += each
            sets += [group] * len(each)
    unit = _apart(encoder, texts)
    places = torch.tensor(given, dtype=torch.long).reshape(-1, 2)
    pairs = some_pairs(unit.to(device()), torch.tensor(sets), places, data["pairs"], generator(seed, "pairs"))
    read = _read(encoder, [(texts[i], texts[j]) for i, j in pairs.tolist()], data, "pairs", follow)
    return Pairs(read["hidden"], read["mask"], (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(-1))


def _examples(
    encoder: Encoder, data: Mapping[str, Any], split: str, seed: int, follow: Callable
) -> tuple[Examples, list[str]]:
    """The examples of a split's data sets as the encoder reads them, and what is to be said of these; of meta-training
    those of the train parts alone, because nothing else is asked there."""
    parts: list[dict[str, Tensor]] = []
    notes = []
    of_split = PARTS if split in APART else PARTS[:1]
    for group, name in enumerate(data[split]):
        of = read_text_set(Path(data["root"]), name, of_split)
        notes += [of.note] if of.note else []
        for part in of_split:
            texts, labels = thinned(of.texts[part], of.labels[part], data["most"], seed)
            read = _read(encoder, texts, data, f"{name} {part}", follow)
            of_part = {"group": torch.full_like(labels, group), "dev": torch.full_like(labels, part == "dev")}
            parts.append(read | {"label": labels, "group": of_part["group"], "dev": of_part["dev"].bool()})
    return Examples(**{key: torch.cat([part[key] for part in parts]) for key in parts[0]}), notes


def _read(
    encoder: Encoder, texts: list[tuple[str, ...]], data: Mapping[str, Any], name: str, follow: Callable
) -> dict[str, Tensor]:
    """``hidden``, ``mask`` and ``embedding`` of texts; kept in the cache, so that a killed stage goes on."""
    layer = 0 if data["layers"] is None else encoder.depth - data["layers"]
    if layer < 0:
        raise InputError(f"texts.layers = {data['layers']} is more than the {encoder.depth} of the body; lower it")
    cache = Cache("texts")
    key = name_of("texts", encoder.digest, texts, data["length"], layer, code=("ltdi.bodies.language_model",))
    if found := cache.find(key):
        return found[1]
    parts: list[dict[str, Tensor]] = []

    def rows() -> Iterator[dict[str, int]]:
        for first in range(0, len(texts), encoder.texts_together):
            tokens = encoder.tokens(texts[first : first + encoder.texts_together], data["length"])
            parts.append({each: value.cpu() for each, value in encoder.read(tokens, layer).items()})
            yield {"texts": first}

    for _ in follow(rows(), name=name, total=-(-len(texts) // encoder.texts_together), show="texts"):
        pass
    read = {each: torch.cat([part[each] for part in parts]) for each in parts[0]}
    cache.keep(key, read, {})
    return read


def _apart(encoder: Encoder, texts: list[str]) -> Tensor:
    """The embeddings of texts (M, H), of unit length; kept in the cache."""
    cache, key = Cache("texts"), name_of("apart", encoder.digest, texts, code=("ltdi.bodies.sentence_encoder",))
    if found := cache.find(key):
        return found[1]["texts"]
    unit = sentence_encoder(encoder.name)(texts)
    cache.keep(key, {"texts": unit}, {})
    return unit
