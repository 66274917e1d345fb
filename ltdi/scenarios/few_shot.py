"""Few-shot classification (the paper's Tables 1 and 3): new classes of images from a few images each.

A frozen body turns images into features; a task is a few classes, what is known of it a few images' features of each.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ltdi.bodies import new_body, pretrained_body
from ltdi.bodies.embedding import embed, embed_views
from ltdi.bodies.pretraining import EpisodicLoss, pretrain
from ltdi.classes import Classes, ClassTasks
from ltdi.datasets import DATASETS, SPLITS, ImageSet, augment, expand_classes, join
from ltdi.devices import precision
from ltdi.errors import InputError
from ltdi.features import NORMALISATIONS, FeatureMap
from ltdi.learner import Learner
from ltdi.learners import LinearHead, TwoLayerHead
from ltdi.metrics import mean_and_ci95, nearest_mean_accuracy
from ltdi.provenance import name_of
from ltdi.scenarios.base import Prepared, Pretraining
from ltdi.seeding import generator
from ltdi.selection import is_ahead, scores_on_new_tasks
from ltdi.starts import STARTS, Start
from ltdi.starts.base import shared_draw
from ltdi.starts.closed_form import ClosedForm
from ltdi.store import Cache

# start: closed_form is the first of these, or another that is ahead of it
CLOSED_FORMS = ("prototype", "ridge")
START_TASKS = 2000


class FewShot:
    """New classes of images from a few images each."""

    source: ClassVar[str] = "classes"
    provides: ClassVar[frozenset[str]] = frozenset({"classes", "examples", "images"})

    # -- the body ------------------------------------------------------------------------------------

    def pretrain(
        self, data: Mapping[str, Any], body: Mapping[str, Any], *, seed: int, device: torch.device
    ) -> Pretraining:
        """A body trained on the meta-training classes alone, or one from a file."""
        splits = image_sets(data)
        channels = splits["meta_train"].images.shape[1]
        if body["weights"]:
            trained = pretrained_body(body, channels).to(device)
            trained.to(memory_format=torch.channels_last)
            return Pretraining(trained, trained.facts(), partial(_scores, trained, splits["meta_val"], seed))
        images = expand_classes(splits["meta_train"], body["transforms"])
        torch.manual_seed(generator(seed, "body").initial_seed())
        model = EpisodicLoss(new_body(body, channels))
        model.to(device).to(memory_format=torch.channels_last)
        rows = partial(
            pretrain,
            images=images,
            classes_a_batch=body["classes_a_batch"],
            images_a_class=body["images_a_class"],
            augment=partial(_augmented, body["augment"]),
            precision=precision(body["precision"], device),
            seed=seed,
        )
        return Pretraining(
            model.body,
            model.body.facts(),
            partial(_scores, model.body, splits["meta_val"], seed),
            model=model,
            rows=rows,
            optimizer={key: body[key] for key in ("lr", "steps", "ema", "weight_decay")},
            inputs=(dict(body), seed, images.images, list(images.counts)),
            code=("ltdi.bodies.pretraining", type(model.body).__module__),
        )

    # -- the tasks -----------------------------------------------------------------------------------

    def prepare(
        self, frozen: nn.Module, data: Mapping[str, Any], tasks: Mapping[str, Any], *, seed: int, follow: Callable
    ) -> Prepared:
        """Features of every image, once, and the tasks of the three splits."""
        train_n_way = tasks["train_n_way"] or tasks["n_way"]
        if train_n_way < tasks["n_way"]:
            raise InputError(
                f"tasks.train_n_way = {train_n_way} is less than tasks.n_way = {tasks['n_way']}; raise it, or set null"
                " for as many"
            )
        splits = image_sets(data)
        facts = {
            "data_set": data["name"],
            "size": splits["meta_train"].images.shape[-1],
            "train_classes": len(splits["meta_train"].names),
        }
        splits["meta_train"] = expand_classes(splits["meta_train"], tasks["transforms"])
        splits["meta_val"] = expand_classes(splits["meta_val"], tasks["val_transforms"])
        features = _embedded(frozen, splits, tasks, follow)
        # scaled, not centred: what ends in ReLU stays >= 0
        scale = features["meta_train"].square().mean().sqrt()
        if not 0 < scale.item() < math.inf:
            raise InputError(
                f"the body's features have size {scale.item()}; train it with a lower body.lr, or name another as"
                " body.weights"
            )
        kept: dict[str, Tensor] = {}
        tables = []
        for split in SPLITS:
            classes = Classes(features[split] / scale, torch.tensor(splits[split].counts))
            kept |= {split: classes.features, f"{split}/counts": classes.counts}
            source = ClassTasks.sample(
                classes,
                n_tasks=tasks[split],
                n_way=train_n_way if split == "meta_train" else tasks["n_way"],
                n_shot=tasks["n_shot"],
                n_query=tasks["n_query"],
                seed=seed,
                split=split,
            )
            tables.append(source.to_table())
            tables[-1].insert(0, "split", split)
        # images: for methods that change the body, and to time what a user meets, from images to weights
        images = {split: splits[split].images for split in SPLITS}
        line = ", ".join(f"{split}: {tasks[split]} tasks from {len(splits[split].names)} classes" for split in SPLITS)
        tensors = {"features": (kept, facts | {"scale": scale.item()}), "images": (images, {})}
        return Prepared(tensors, pd.concat(tables, ignore_index=True), line)

    # -- where training starts -----------------------------------------------------------------------

    def begin(
        self, sources: Mapping[str, ClassTasks], learner: Mapping[str, Any], kind: str, *, seed: int
    ) -> tuple[Start, FeatureMap | None]:
        """Of the closed forms, and of the normalisations of features where ``learner.normalise`` is auto, the first, or
        the best of the others where its accuracy on new meta-val tasks is ahead of the first's. Cross-entropy would not
        do: where nearly every query is right, the lower one can go with the more mistakes."""
        train, val = sources["meta_train"], sources["meta_val"]
        normalise, projection = learner["normalise"], learner["projection"]
        maps = [
            FeatureMap.fit(train.of.features[: train.of.n_rows], normalise=each, projection=projection)
            for each in (NORMALISATIONS if normalise == "auto" else (normalise,))
        ]
        kinds = CLOSED_FORMS if kind == "closed_form" else (kind,)
        judged = kinds if issubclass(STARTS[kinds[0]], ClosedForm) else CLOSED_FORMS[:1] if len(maps) > 1 else kinds
        candidates = []
        for seen in maps:
            mapped = _learner(learner, seen, train.of)
            shared = shared_draw(mapped, val.n_way, seed).to(val.of.features.device)
            candidates += [(_calibrated(STARTS[each](mapped, shared), val.through(seen)), seen) for each in judged]
        start, seen = candidates[0]
        if len(candidates) > 1:
            scores = [_accuracies(candidate, val.through(seen), seed) for candidate, seen in candidates]
            best = max(range(1, len(candidates)), key=lambda i: scores[i].mean().item())
            if is_ahead(scores[best], scores[0]):
                start, seen = candidates[best]
        if start.kind not in kinds:
            start = STARTS[kind](start.learner, start.shared)
        return start, seen


def image_sets(data: Mapping[str, Any]) -> dict[str, ImageSet]:
    """The splits of the data set, the meta-val classes among the meta-training ones if ``train_on_val``."""
    data_set = DATASETS[data["name"]]
    size = {"size": data["mini_imagenet_size"]} if data_set.sized else {}
    splits = data_set.load(Path(data["root"]), download=data["download"], **size)
    if data["train_on_val"]:
        splits["meta_train"] = join(splits["meta_train"], splits["meta_val"])
    return splits


def _augmented(ranges: Mapping[str, float], images: Tensor, stream: torch.Generator) -> Tensor:
    """The augmented copies of images (M, channels, height, width) in [0, 1]."""
    return augment(images, generator=stream, **ranges)


def _scores(body: nn.Module, images: ImageSet, seed: int) -> dict[str, float]:
    """Nearest-mean accuracy on 600 meta-val tasks of the usual sizes that there are classes and images for."""
    classes = Classes(embed(body, images.images), torch.tensor(images.counts))
    scores = {}
    for n_way, n_shot in ((5, 1), (5, 5), (20, 1), (20, 5)):
        if n_way <= len(classes) and n_shot + 10 <= max(images.counts):
            sizes = {"n_tasks": 600, "n_way": n_way, "n_shot": n_shot, "n_query": 10}
            source = ClassTasks.sample(classes, **sizes, seed=seed, split="meta_val")
            task = source.batch(torch.arange(len(source)))
            accuracies = nearest_mean_accuracy(task.context.means, task.query["inputs"], task.query["labels"])
            scores[f"val_{n_way}w{n_shot}s"], _ = mean_and_ci95(accuracies)
    return scores


def _embedded(
    body: nn.Module, splits: Mapping[str, ImageSet], tasks: Mapping[str, Any], follow: Callable
) -> dict[str, Tensor]:
    """Features of every image (R, F); of meta-training images also of ``views`` augmented copies (V·R, F).

    Kept in the cache: tasks of other sizes and seeds are drawn over the same features.
    """
    views, cache = tasks["views"], Cache("features")
    images = {split: splits[split].images for split in SPLITS}
    inputs = (body.state_dict(), images, views, dict(tasks["augment"]))
    code = ("ltdi.bodies.embedding", "ltdi.datasets.images", "ltdi.seeding", type(body).__module__)
    key = name_of("features", *inputs, code=code)
    if found := cache.find(key):
        return found[1]
    features = {split: embed(body, images[split]) for split in SPLITS if split != "meta_train"}
    augment = partial(_augmented, tasks["augment"])
    features["meta_train"] = embed_views(body, images["meta_train"], views=views, augment=augment, follow=follow)
    cache.keep(key, features, {})
    return features


def _learner(learner: Mapping[str, Any], seen: FeatureMap, of: Classes) -> Learner:
    """The learner that the section ``learner`` of params.yaml names, of features seen through the map."""
    if learner["name"] == "linear_head":
        return LinearHead(seen.width)
    return TwoLayerHead(seen.width, learner["hidden"], seen.floor(of.features[: of.n_rows]))


def _calibrated(start: Start, val: ClassTasks) -> Start:
    return start.calibrated(val.batch(torch.arange(len(val)))) if isinstance(start, ClosedForm) else start


def _accuracies(start: Start, val: ClassTasks, seed: int) -> Tensor:
    """On new meta-val tasks, the same for all starts (START_TASKS,)."""
    stream = generator(seed, "start")
    return scores_on_new_tasks(start.learner, val, lambda c: [start.centre(c)], n_tasks=START_TASKS, stream=stream)[0]
