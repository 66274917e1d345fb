"""Heads from names (the paper's Table 2): new classes of images of which nothing is known but what they are called.

A frozen body that is trained already turns images into features; a task is a few classes, what is known of it a row of
text each. It is learned from classes with images, or from the rows of the body's own classifier and their names alone.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ltdi.bodies.embedding import embed
from ltdi.bodies.registry import pretrained_body
from ltdi.bodies.sentence_encoder import embed_names, read_descriptions
from ltdi.datasets import DATASETS, SPLITS, ImageSet
from ltdi.datasets.images import kept_pixels
from ltdi.scenarios.base import Prepared, Pretraining
from ltdi.scenarios.image_features import image_sets, scale_of
from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.tasks.named_class_tasks import NamedClasses, NamedClassTasks, left_out, rows_as_features
from ltdi.utils.errors import InputError

CLASSIFIERS = ("classifier.weight", "fc.weight", "head.weight", "head.fc.weight")
"""What timm's models call the rows of their classifier."""


class ZeroShot:
    """New classes of images from their names."""

    source: ClassVar[str] = "from_names"
    data: ClassVar[str] = "data"
    learners: ClassVar[tuple[str, ...]] = ("two_layer_head", "linear_head")
    provides: ClassVar[frozenset[str]] = frozenset({"classes", "names"})

    def pretrain(
        self, data: Mapping[str, Any], body: Mapping[str, Any], *, seed: int, device: torch.device
    ) -> Pretraining:
        """A body from a file: it is not trained here."""
        if not body["weights"]:
            raise InputError(
                "body.weights = null: heads from names stand on a body that is trained already; name its file, e.g. the"
                " data/body/body.safetensors of a run of few_shot"
            )
        channels = 1 if DATASETS[data["name"]].mode == "L" else 3
        trained = pretrained_body(body, channels).to(device)
        trained.to(memory_format=torch.channels_last)
        return Pretraining(trained, trained.facts(), lambda: {"features": float(trained.width)})

    def prepare(
        self, frozen: nn.Module, data: Mapping[str, Any], tasks: Mapping[str, Any], *, seed: int, follow: Callable
    ) -> Prepared:
        """Features of every image, a row of text of every class, and the tasks of the three splits."""
        hparams, splits = tasks["names"], image_sets(data)
        called = {split: names_of(splits[split].names, hparams) for split in SPLITS}
        text_of = partial(_texts, hparams)
        features = {split: _embedded(frozen, each) for split, each in splits.items()}
        images = features["meta_train"]
        scale = scale_of(images)
        features = {split: each / scale for split, each in features.items()}
        counts = {split: torch.tensor(splits[split].counts) for split in SPLITS}
        kept: dict[str, Tensor] = {}
        if hparams["learn_from"] != "images":
            rows, called["meta_train"] = known_rows(hparams, called["meta_val"] | called["meta_test"])
            rows = rows_as_features(rows, features["meta_train"])
            features["meta_train"], counts["meta_train"] = rows, torch.ones(len(rows), dtype=torch.long)
        if hparams["learn_from"] == "both":
            own = names_of(splits["meta_train"].names, hparams)
            order, counts["meta_train"], features["meta_train"] = with_images(
                called["meta_train"], own, torch.tensor(splits["meta_train"].counts), images / scale
            )
            place = {key: j for j, key in enumerate(called["meta_train"])}
            kept["meta_train/rows"] = rows[[place[key] for key in order]]
            called["meta_train"] = {key: called["meta_train"][key] for key in order}
        tables = []
        for split in SPLITS:
            texts = text_of(list(called[split].values()))
            of = NamedClasses(features[split], counts[split], texts=texts, learned_from=split == "meta_train")
            kept |= {split: of.features, f"{split}/counts": of.counts, f"{split}/texts": of.texts}
            n_way = (tasks["train_n_way"] or tasks["n_way"]) if split == "meta_train" else tasks["n_way"]
            sizes = {"n_tasks": tasks[split], "n_way": n_way, "n_query": tasks["n_query"]}
            tables.append(NamedClassTasks.of_classes(of, **sizes, seed=seed, split=split).to_table())
            tables[-1].insert(0, "split", split)
        facts = {
            "data_set": data["name"],
            "size": splits["meta_train"].images.shape[-1],
            "train_classes": len(called["meta_train"]),
            "scale": scale.item(),
            "names": {key: hparams[key] and str(hparams[key]) for key in ("encoder", "prompts", "descriptions")},
        }
        line = ", ".join(f"{split}: {tasks[split]} tasks from {len(called[split])} names" for split in SPLITS)
        tensors: dict[str, tuple[Mapping[str, Tensor], Mapping[str, Any]]] = {"features": (kept, facts)}
        if hparams["learn_from"] != "both" and (pixels := kept_pixels(splits)):
            tensors["images"] = (pixels, {})
        return Prepared(tensors, pd.concat(tables, ignore_index=True), line)


def names_of(classes: tuple[str, ...], hparams: Mapping[str, Any]) -> dict[str, str]:
    """What classes are called, by their keys in the data set: as the file ``classes`` says, a key, a tab and a name a
    line, or the keys themselves."""
    told = read_descriptions(Path(hparams["classes"])) if hparams["classes"] else {}
    return {key: told.get(key, key.replace("_", " ")) for key in classes}


def known_rows(hparams: Mapping[str, Any], asked: Mapping[str, str]) -> tuple[Tensor, dict[str, str]]:
    """The rows (C, F) of a trained classifier, and their names by key, but for the classes that are asked.

    Raises:
        InputError: a file is not named or holds no classifier, or there are not as many names as rows.
    """
    for key in ("classifier", "classes"):
        if not hparams[key]:
            raise InputError(
                f"tasks.names.{key} = null: tasks.names.learn_from = classifier needs the file with the classifier's"
                " rows, and one with their keys and names in the same order; name both"
            )
    try:
        tensors = load_file(hparams["classifier"])
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"tasks.names.classifier = {hparams['classifier']}: no safetensors file ({error}); name another"
        ) from error
    found = [name for name in CLASSIFIERS if name in tensors]
    names = read_descriptions(Path(hparams["classes"]))
    if not found or len(tensors[found[0]]) != len(names):
        rows = f"{len(tensors[found[0]])} rows" if found else "no classifier"
        raise InputError(
            f"tasks.names.classifier = {hparams['classifier']} holds {rows}, and {hparams['classes']} {len(names)}"
            f" names;"
            f" name files that belong together (rows are one of {', '.join(CLASSIFIERS)})"
        )
    kept = left_out(names, asked)
    place = {key: j for j, key in enumerate(names)}
    return tensors[found[0]][[place[key] for key in kept]], {key: names[key] for key in kept}


def with_images(
    names: Mapping[str, str], called: Mapping[str, str], counts: Tensor, images: Tensor
) -> tuple[list[str], Tensor, Tensor]:
    """The keys of ``names``, first those that are among the classes ``called``, by key or by name; of each how many
    images it has (C,), and the features of these. ``images`` (R, F) are those of the classes called, by ``counts``.

    Raises:
        InputError: none of the classes called has a name there.
    """
    keys = {key: key for key in names} | {name.lower(): key for key, name in names.items()}
    found = [keys.get(key, keys.get(name.lower())) for key, name in called.items()]
    first = [key for key in found if key is not None]
    if not first:
        raise InputError(
            "tasks.names.learn_from = both: no meta-training class is one of the classifier's, by key or by name; set"
            " classifier, or images"
        )
    parts = [part for part, key in zip(images.split(counts.tolist()), found, strict=True) if key is not None]
    order = first + [key for key in names if key not in set(first)]
    n_images = [len(part) for part in parts] + [0] * (len(order) - len(first))
    return order, torch.tensor(n_images), torch.cat(parts)


def _texts(hparams: Mapping[str, Any], names: list[str]) -> Tensor:
    if not hparams["encoder"]:
        raise InputError("tasks.names.encoder = null: name a folder that holds a text encoder, or one of the hub")
    descriptions = read_descriptions(Path(hparams["descriptions"])) if hparams["descriptions"] else None
    return embed_names(hparams["encoder"], names, prompts=hparams["prompts"], descriptions=descriptions)


def _embedded(body: nn.Module, images: ImageSet) -> Tensor:
    """Features of every image (R, F), from the cache where they are there."""
    cache = Cache("features")
    code = ("ltdi.bodies.embedding", type(body).__module__)
    key = name_of("described features", body.state_dict(), images.content, code=code)
    if found := cache.find(key):
        return found[1]["features"]
    features = embed(body, images.images)
    cache.keep(key, {"features": features}, {})
    return features
