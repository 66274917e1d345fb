"""Domains (the form of the paper's Table 4): tasks within one data set or one of its parts, a mixture of them learned
from, others chosen on, others again tested on.

A frozen body turns photographs, sketches and drawings into features; a task is a few classes of one domain. What is
chosen on meta-val is chosen for images of another kind than those that were learned from, as a user's are.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ltdi.bodies.embedding import embed
from ltdi.datasets import SPLITS, ImageSet, expand_classes, folder, join
from ltdi.datasets.domain_sets import domains
from ltdi.datasets.image_files import Streamed
from ltdi.scenarios.base import Prepared, Pretraining
from ltdi.scenarios.image_features import pretraining, scale_of
from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.tasks.class_tasks import Classes
from ltdi.tasks.domain_tasks import DomainTasks
from ltdi.utils.errors import InputError

KEYS = {"meta_train": "train", "meta_val": "val", "meta_test": "test"}


class Domains:
    """New classes of images of one domain, from a few images each."""

    source: ClassVar[str] = "domains"
    data: ClassVar[str] = "data"
    learners: ClassVar[tuple[str, ...]] = ("two_layer_head", "linear_head")
    provides: ClassVar[frozenset[str]] = frozenset({"classes", "examples"})

    def pretrain(
        self, data: Mapping[str, Any], body: Mapping[str, Any], *, seed: int, device: torch.device
    ) -> Pretraining:
        """A body trained on the classes of all meta-training domains together, or one from a file."""
        size = body["image_size"] or data["size"]
        train, val = (together(domains_of(data, split, size=size)) for split in ("meta_train", "meta_val"))
        return pretraining(train, val, body, seed=seed, device=device)

    def prepare(
        self, frozen: nn.Module, data: Mapping[str, Any], tasks: Mapping[str, Any], *, seed: int, follow: Callable
    ) -> Prepared:
        """Features of every image, once a domain, and the tasks of the three splits."""
        if tasks["views"]:
            raise InputError(
                f"tasks.views = {tasks['views']}: the scenario domains has no augmented copies; set it to 0"
            )
        size = getattr(frozen, "image_size", None) or data["size"]
        sets = all_domains(data, size=size)
        symmetries = {"meta_train": tasks["transforms"], "meta_val": tasks["val_transforms"], "meta_test": "none"}
        features: dict[str, Tensor] = {}
        for split, of_split in sets.items():
            of_split |= {name: expand_classes(each, symmetries[split]) for name, each in of_split.items()}
            features[split] = torch.cat([_embedded(frozen, name, each, follow) for name, each in of_split.items()])
        scale = scale_of(features["meta_train"])
        kept: dict[str, Tensor] = {}
        tables = []
        for split, of_split in sets.items():
            source = _sampled(of_split, features[split] / scale, tasks, split, seed)
            kept |= {split: source.of.features, f"{split}/counts": source.of.counts}
            kept[f"{split}/domains"] = torch.tensor(source.sizes)
            tables.append(source.to_table())
            tables[-1].insert(0, "split", split)
            tables[-1].insert(1, "domain", [list(of_split)[i % len(of_split)] for i in range(len(source))])
        told = (f"{split}: {tasks[split]} tasks from {', '.join(of_split)}" for split, of_split in sets.items())
        facts: dict[str, Any] = {"data_set": "folder", "size": size}
        facts |= {f"{KEYS[split]}_classes": _n_classes(sets[split]) for split in ("meta_train", "meta_val")}
        facts |= {"domain_power": data["domain_power"]}
        kinds = {"features": (kept, facts | {"scale": scale.item()})}
        return Prepared(kinds, pd.concat(tables, ignore_index=True), "; ".join(told))


def all_domains(data: Mapping[str, Any], *, size: int) -> dict[str, dict[str, ImageSet]]:
    """The domains of each split by name.

    Raises:
        InputError: a split lists none, or what is not there, a domain is in two, or the table ``data.splits`` names a
            class that no domain of its split has.
    """
    sets = {split: domains_of(data, split, size=size) for split in SPLITS}
    _no_domain_twice(sets)
    for name, place in _table(data).items():
        there = {each.split("/")[-1].partition(":")[0] for of in sets[SPLITS[place]].values() for each in of.names}
        if name not in there:
            raise InputError(
                f"data.splits = {data['splits']}: no domain of data.domains.{KEYS[SPLITS[place]]} has a class {name!r};"
                " take its line out"
            )
    return sets


def _table(data: Mapping[str, Any]) -> dict[str, int]:
    return folder.read_table(data["splits"]) if data["splits"] else {}


def domains_of(data: Mapping[str, Any], split: str, *, size: int) -> dict[str, ImageSet]:
    """The domains of a split by name, as ``data.domains`` lists them; of meta-training and meta-val ones no more than
    ``data.images_a_class`` images of each class. A class that the table ``data.splits`` names is in the domains of its
    split alone.

    Raises:
        InputError: the split lists none, or what is not there.
    """
    entries = data["domains"][KEYS[split]]
    if not entries:
        raise InputError(f"data.domains.{KEYS[split]} is empty; name data sets, or domains as pacs/photo, for {split}")
    most = None if split == "meta_test" else data["images_a_class"]
    others = {name for name, place in _table(data).items() if SPLITS[place] != split}
    found: dict[str, ImageSet] = {}
    for entry in entries:
        hparams = {"size": size, "download": data["download"], "most": most, "without": others}
        for each in domains(entry, Path(data["root"]), **hparams):
            assert each.domains is not None
            found[each.domains[0]] = each
    return found


def together(of_split: Mapping[str, ImageSet]) -> ImageSet:
    """The classes of all domains as one set."""
    first, *others = of_split.values()
    for other in others:
        first = join(first, other)
    return first


def _n_classes(of_split: Mapping[str, ImageSet]) -> int:
    """Of all domains, those of a domain in several looks counted once."""
    return sum({name.partition(":")[0]: len(each.names) for name, each in of_split.items()}.values())


def _no_domain_twice(sets: Mapping[str, Mapping[str, ImageSet]]) -> None:
    """Nor a data set in one split and a part of it, or a look of it, in another."""
    places = [(name.partition(":")[0], split) for split, of_split in sets.items() for name in of_split]
    for name, split in places:
        for other, its_split in places:
            if split != its_split and (name == other or other.startswith(f"{name}/")):
                raise InputError(
                    f"data.domains: {name} is of {split} and {other} of {its_split}; a domain belongs to one split"
                )


def _sampled(
    of_split: Mapping[str, ImageSet], features: Tensor, tasks: Mapping[str, Any], split: str, seed: int
) -> DomainTasks:
    """The tasks of a split, of the features (R, F) of its domains."""
    counts = [count for each in of_split.values() for count in each.counts]
    return DomainTasks.sample_within(
        Classes(features, torch.tensor(counts)),
        [len(each.names) for each in of_split.values()],
        list(of_split),
        n_tasks=tasks[split],
        n_way=(split == "meta_train" and tasks["train_n_way"]) or tasks["n_way"],
        n_shot=tasks["n_shot"],
        n_query=tasks["n_query"],
        seed=seed,
        split=split,
    )


def _embedded(body: nn.Module, name: str, images: ImageSet, follow: Callable) -> Tensor:
    """Features of every image of a domain (R, F), kept in the cache: runs that share a domain share them."""
    assert isinstance(images.images, Streamed)
    cache = Cache("features")
    code = ("ltdi.bodies.embedding", "ltdi.datasets.image_files", type(body).__module__)
    key = name_of("domain", body.state_dict(), images.images.name, code=code)
    if found := cache.find(key):
        return found[1]["features"]
    features = embed(body, images.images, follow=follow, name=f"embed {name}")
    cache.keep(key, {"features": features}, {})
    return features
