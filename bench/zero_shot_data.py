"""What ``python -m bench zero-shot`` measures on: features of a frozen body, and the tasks of a seed."""

import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdi.bodies import pretrained_body
from ltdi.bodies.embedding import embed
from ltdi.console import say
from ltdi.datasets import read_images
from ltdi.described import DescribedClasses, DescribedTasks, rows_as_features
from ltdi.provenance import name_of
from ltdi.scenarios.zero_shot import known_rows, with_images
from ltdi.seeding import generator
from ltdi.store import Cache
from ltdi.texts import embed_names, read_descriptions

BODY = {"name": "timm/tf_efficientnet_lite0", "image_size": 128, "filters": 0}
RECORDED, N_QUERY, N_TASKS = 16, 10, 50

Split = dict[str, DescribedTasks]


def features(file: Path, folder: str, images: int, body: Path) -> tuple[list[str], Tensor]:
    """The classes of a zip, and features (C, images, F) of their first images."""
    by_class: dict[str, list[zipfile.Path]] = defaultdict(list)
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if parts[0] == folder and len(parts) == 3 and parts[2] and len(by_class[parts[1]]) < images:
                by_class[parts[1]].append(zipfile.Path(archive, name))
        names, cache = sorted(by_class), Cache("features")
        size = 64 if folder == "train" else 32
        network, parts_of = pretrained_body(BODY | {"weights": body}, 3), []
        inputs = (names, file.stat().st_size, images, size, BODY, network.state_dict())
        key = name_of("bench names", *inputs, code=("ltdi.bodies.embedding", type(network).__module__))
        if kept := cache.find(key):
            return names, kept[1]["features"]
        for j, name in enumerate(names):
            parts_of.append(embed(network, read_images(by_class[name], mode="RGB", size=size), batch=100))
            say(f"{file.name}: {j + 1} of {len(names)} classes")
    cache.keep(key, {"features": torch.stack(parts_of)}, {})
    return names, torch.stack(parts_of)


def split(seed: int, found: dict[str, Any], knobs: dict[str, Any]) -> tuple[Split, dict[str, Tensor]]:
    """The tasks of a seed, and of each but meta-train the labelled features (C, M, F) of images that are not asked."""
    wnids, of_tiny = found["tiny"]
    order = torch.randperm(len(wnids), generator=generator(seed, "classes"))
    others, val, test = order[:100], order[100:150], order[150:]
    scale = of_tiny[others].square().mean().sqrt()
    names = read_descriptions(knobs["classes"])

    def named(chosen: Tensor) -> dict[str, str]:
        return {wnids[j]: names[wnids[j]] for j in chosen.tolist()}

    def tasks(of: Tensor, called: list[str], n_tasks: int, n_way: int, part: str) -> DescribedTasks:
        texts = embed_names(knobs["encoder"], called, prompts=knobs["prompts"])
        counts = torch.full((len(of),), of.shape[1])
        of_part = DescribedClasses((of / scale).flatten(0, 1), counts, texts=texts)
        sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_query": N_QUERY}
        return DescribedTasks.of_classes(of_part, **sizes, seed=seed, split=part)

    cifar_names, of_cifar = found["cifar"]
    tests = {"meta_val": of_tiny[val], "tiny": of_tiny[test], "cifar": of_cifar}
    called = {"meta_val": list(named(val).values()), "tiny": list(named(test).values()), "cifar": cifar_names}
    kept = {name: of[:, : of.shape[1] // 2] / scale for name, of in tests.items()}
    sizes = {"meta_val": (N_TASKS, 50), "tiny": (N_TASKS, 50), "cifar": (4 * N_TASKS, 10)}
    made: Split = {"meta_train": _train(of_tiny[others], scale, named(others), named(order[100:]), knobs, seed)}
    for name, of in tests.items():
        made[name] = tasks(of[:, of.shape[1] // 2 :], called[name], *sizes[name], name)
    return made, kept


def _train(
    images: Tensor, scale: Tensor, called: dict[str, str], asked: dict[str, str], knobs: dict[str, Any], seed: int
) -> DescribedTasks:
    """Tasks of the training classes' images; known are the rows of these and of all classes that are not asked."""
    rows, known = known_rows(knobs, asked)
    counts = torch.full((len(images),), images.shape[1])
    of_images = images.flatten(0, 1)
    place = {key: j for j, key in enumerate(known)}
    rows = rows_as_features(rows, of_images)
    keys, counts, of_images = with_images(known, called, counts, of_images)
    texts = embed_names(knobs["encoder"], [known[key] for key in keys], prompts=knobs["prompts"])
    rows = rows[[place[key] for key in keys]] / scale
    of = DescribedClasses(of_images / scale, counts, texts=texts, learned_from=True, rows=rows)
    sizes = {"n_tasks": RECORDED, "n_way": 50, "n_query": N_QUERY}
    return DescribedTasks.of_classes(of, **sizes, seed=seed, split="meta_train")


def shuffled(source: DescribedTasks, by: int) -> DescribedTasks:
    """Each class has another's name."""
    of = replace(source.of, texts=source.of.texts.roll(by, 0))
    return DescribedTasks(of, source.classes, source.support, source.query)
