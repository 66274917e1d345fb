"""What ``python -m bench zero-shot`` measures on: features of a frozen body, and the tasks of a seed."""

import zipfile
from collections import defaultdict
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdi.bodies.embedding import embed
from ltdi.bodies.registry import pretrained_body
from ltdi.bodies.sentence_encoder import embed_names, read_descriptions
from ltdi.datasets import folder, photographs, read_images
from ltdi.datasets.image_files import Streamed
from ltdi.scenarios.zero_shot import known_rows, with_images
from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.tasks.named_class_tasks import NamedClasses, NamedClassTasks, rows_as_features
from ltdi.utils.console import say
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

BODY: dict[str, Any] = {"name": "timm/tf_efficientnet_lite0", "image_size": 128, "filters": 0}
RECORDED, N_QUERY, N_TASKS = 16, 10, 50

Split = dict[str, NamedClassTasks]


def features(file: Path, part: str, images: int, body: Path) -> tuple[list[str], Tensor]:
    """The classes of a zip, and features (C, images, F) of their first images."""
    by_class, size = files_of(file, part, images), 64 if part == "train" else 32
    return sorted(by_class), _embedded(by_class, (file.stat().st_size, images, size), size, body, file.name)


def files_of(file: Path, part: str, images: int) -> dict[str, list[Any]]:
    """The first images of each class of a zip."""
    by_class: dict[str, list[Any]] = defaultdict(list)
    # opened once, and for as long as somebody has a path in it: opening reads the names of all its files
    archive = zipfile.ZipFile(file)
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if parts[0] == part and len(parts) == 3 and parts[2] and len(by_class[parts[1]]) < images:
            by_class[parts[1]].append(zipfile.Path(archive, name))
    return by_class


def further(places: list[str], images: int, body: Path) -> dict[str, tuple[list[str], Tensor]]:
    """As ``features``, of the data sets NAME=FOLDER each class's last images: test images come last where a data set
    has them. A name that is none of ``KNOWN`` is a folder that holds a folder for each class.

    Raises:
        InputError: a place is of another form, or not there.
    """
    found = {}
    for each in places:
        name, sign, place = each.partition("=")
        if not (name and sign and place) or name in ("tiny", "cifar"):
            raise InputError(f"--data {each} is not NAME=FOLDER, e.g. pets=data/raw; a name is not tiny or cifar")
        pictures = photographs.find(name, Path(place)) if name in photographs.KNOWN else folder.find(Path(place))
        classes = folder.by_domain(pictures)
        if len(classes) > 1:
            raise InputError(f"--data {each}: images of several domains ({', '.join(classes)}); name the folder of one")
        (by_class,) = classes.values()
        fewest = min(images, *(len(files) for files in by_class.values()))
        last = {key.replace("_", " "): files[-fewest:] for key, files in by_class.items()}
        size = BODY["image_size"]
        content = Streamed(tuple(chain.from_iterable(last[key] for key in sorted(last))), "RGB", size).name
        found[name] = sorted(last), _embedded(last, (content,), size, body, name)
    return found


def _embedded(by_class: dict[str, list[Any]], content: tuple, size: int, body: Path, label: str) -> Tensor:
    """(C, images, F) in the order of the classes' names, from the cache where they are there; ``content`` tells the
    images from others."""
    names, cache, network = sorted(by_class), Cache("features"), pretrained_body(BODY | {"weights": body}, 3)
    code = ("ltdi.bodies.embedding", type(network).__module__)
    key = name_of("bench names", names, *content, BODY, network.state_dict(), code=code)
    if kept := cache.find(key):
        return kept[1]["features"]
    parts = []
    for j, name in enumerate(names):
        parts.append(embed(network, read_images(by_class[name], mode="RGB", size=size), batch=100))
        say(f"{label}: {j + 1} of {len(names)} classes")
    cache.keep(key, {"features": torch.stack(parts)}, {})
    return torch.stack(parts)


def split(
    seed: int, found: dict[str, Any], hparams: dict[str, Any]
) -> tuple[Split, dict[str, Tensor], dict[str, Tensor]]:
    """The tasks of a seed; of each but meta-train the labelled features (C, M, F) of images that are not asked; and of
    Tiny-ImageNet's the rows (C, F) that the body has of its own for them, where it has."""
    wnids, of_tiny = found["tiny"]
    others, val, test = parts_of(len(wnids), seed)
    order = torch.cat([others, val, test])
    scale = of_tiny[others].square().mean().sqrt()
    names = read_descriptions(hparams.get("names", hparams["classes"]))

    def named(chosen: Tensor) -> dict[str, str]:
        return {wnids[j]: names[wnids[j]] for j in chosen.tolist()}

    def tasks(of: Tensor, called: list[str], n_tasks: int, n_way: int, part: str) -> NamedClassTasks:
        texts = embed_names(hparams["encoder"], called, prompts=hparams["prompts"])
        counts = torch.full((len(of),), of.shape[1])
        of_part = NamedClasses((of / scale).flatten(0, 1), counts, texts=texts)
        sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_query": N_QUERY}
        return NamedClassTasks.of_classes(of_part, **sizes, seed=seed, split=part)

    tests = {"meta_val": of_tiny[val], "tiny": of_tiny[test]}
    called = {"meta_val": list(named(val).values()), "tiny": list(named(test).values())}
    sizes = {"meta_val": (N_TASKS, 50), "tiny": (N_TASKS, 50)}
    for name, (classes, of) in found.items():
        if name != "tiny":
            tests[name], called[name] = of, classes
            sizes[name] = (max(20, min(4 * N_TASKS, 2000 // len(classes))), len(classes))
    kept = {name: of[:, : of.shape[1] // 2] / scale for name, of in tests.items()}
    made: Split = {"meta_train": _train(of_tiny[others], scale, named(others), named(order[100:]), hparams, seed)}
    for name, of in tests.items():
        made[name] = tasks(of[:, of.shape[1] // 2 :], called[name], *sizes[name], name)
    every, known = known_rows(hparams, {})
    every, place = (
        rows_as_features(every, of_tiny[others].flatten(0, 1)) / scale,
        {key: j for j, key in enumerate(known)},
    )
    own = {part: [place.get(wnids[j]) for j in of.tolist()] for part, of in (("meta_val", val), ("tiny", test))}
    return made, kept, {part: every[places] for part, places in own.items() if None not in places}


def parts_of(n_classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which classes of Tiny-ImageNet are learned from, chosen on and tested on."""
    order = torch.randperm(n_classes, generator=generator(seed, "classes"))
    return order[:100], order[100:150], order[150:]


def _train(
    images: Tensor, scale: Tensor, called: dict[str, str], asked: dict[str, str], hparams: dict[str, Any], seed: int
) -> NamedClassTasks:
    """Tasks of the training classes' images; known are the rows of these and of all classes that are not asked."""
    rows, known = known_rows(hparams, asked)
    counts = torch.full((len(images),), images.shape[1])
    of_images = images.flatten(0, 1)
    place = {key: j for j, key in enumerate(known)}
    rows = rows_as_features(rows, of_images)
    keys, counts, of_images = with_images(known, called, counts, of_images)
    texts = embed_names(hparams["encoder"], [known[key] for key in keys], prompts=hparams["prompts"])
    rows = rows[[place[key] for key in keys]] / scale
    of = NamedClasses(of_images / scale, counts, texts=texts, learned_from=True, rows=rows)
    sizes = {"n_tasks": RECORDED, "n_way": 50, "n_query": N_QUERY}
    return NamedClassTasks.of_classes(of, **sizes, seed=seed, split="meta_train")


def shuffled(source: NamedClassTasks, by: int) -> NamedClassTasks:
    """Each class has another's name."""
    of = replace(source.of, texts=source.of.texts.roll(by, 0))
    return NamedClassTasks(of, source.classes, source.support, source.query)
