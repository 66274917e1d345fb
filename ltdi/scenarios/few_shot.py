"""Few-shot classification (the paper's Tables 1 and 3): new classes of images from a few images each.

A frozen body turns images into features; a task is a few classes, what is known of it a few images' features of each.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ltdi.bodies.embedding import embed, embed_views
from ltdi.datasets import SPLITS, ImageSet, expand_classes
from ltdi.datasets.images import kept_pixels
from ltdi.scenarios.base import Prepared, Pretraining
from ltdi.scenarios.image_features import augmented, image_sets, pretraining, scale_of
from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.utils.errors import InputError


class FewShot:
    """New classes of images from a few images each."""

    source: ClassVar[str] = "classes"
    provides: ClassVar[frozenset[str]] = frozenset({"classes", "examples", "images"})
    data: ClassVar[str] = "data"
    learners: ClassVar[tuple[str, ...]] = ("two_layer_head", "linear_head")

    def pretrain(
        self, data: Mapping[str, Any], body: Mapping[str, Any], *, seed: int, device: torch.device
    ) -> Pretraining:
        """A body trained on the meta-training classes alone, or one from a file."""
        splits = image_sets(data)
        return pretraining(splits["meta_train"], splits["meta_val"], body, seed=seed, device=device)

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
        scale = scale_of(features["meta_train"])
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
        line = ", ".join(f"{split}: {tasks[split]} tasks from {len(splits[split].names)} classes" for split in SPLITS)
        kinds = {"features": (kept, facts | {"scale": scale.item()})}
        # images: for methods that change the body, and to time what a user meets, from images to weights
        if images := kept_pixels(splits):
            kinds["images"] = (images, {})
        return Prepared(kinds, pd.concat(tables, ignore_index=True), line)


def _embedded(
    body: nn.Module, splits: Mapping[str, ImageSet], tasks: Mapping[str, Any], follow: Callable
) -> dict[str, Tensor]:
    """Features of every image (R, F); of meta-training images also of ``views`` augmented copies (V·R, F).

    Kept in the cache: tasks of other sizes and seeds are drawn over the same features.
    """
    views, cache = tasks["views"], Cache("features")
    images = {split: splits[split].images for split in SPLITS}
    contents = [splits[split].content for split in SPLITS]
    inputs = (body.state_dict(), *contents, views, dict(tasks["augment"]))
    code = ("ltdi.bodies.embedding", "ltdi.datasets.images", "ltdi.utils.seeding", type(body).__module__)
    key = name_of("features", *inputs, code=code)
    if found := cache.find(key):
        return found[1]
    features = {
        split: embed(body, images[split], follow=follow, name=f"embed {split}")
        for split in SPLITS
        if split != "meta_train"
    }
    augment = partial(augmented, tasks["augment"])
    features["meta_train"] = embed_views(body, images["meta_train"], views=views, augment=augment, follow=follow)
    cache.keep(key, features, {})
    return features
