"""Stage 2: features of every image, once, and the tasks of the three splits -> data/tasks/."""

from pathlib import Path

import pandas as pd
import torch

from ltdi.bodies.pretraining import embed
from ltdi.datasets import SPLITS, ImageSet, expand_classes, to_float
from ltdi.errors import InputError
from ltdi.seeding import generator
from ltdi.store import Cache, digest, read_tensors, write_table, write_tensors
from ltdi.tasks import TaskSource
from pipeline import params as parameters
from pipeline.body import load_body
from pipeline.images import augmentation, image_sets
from pipeline.progress import follow, say
from pipeline.stage import deterministic, device, run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "data", "tasks")
    tasks, seed = params.tasks, params.seed
    train_n_way = tasks.train_n_way or tasks.n_way
    if train_n_way < tasks.n_way:
        raise InputError(
            f"tasks.train_n_way = {train_n_way} is less than tasks.n_way = {tasks.n_way}; raise it, or set null for as many"
        )
    deterministic()
    body = load_body(data).to(device(), memory_format=torch.channels_last)
    splits = image_sets(params.data)
    facts = {
        "data_set": params.data.name,
        "size": splits["meta_train"].images.shape[-1],
        "train_classes": len(splits["meta_train"].names),
        "n_images": {split: splits[split].images.shape[1] for split in SPLITS},
    }
    splits["meta_train"] = expand_classes(splits["meta_train"], tasks.transforms)
    splits["meta_val"] = expand_classes(splits["meta_val"], tasks.val_transforms)

    features = _embed_all(body, splits, tasks)
    # scaled, not centred: the closed-form heads rely on features >= 0
    scale = features["meta_train"].square().mean().sqrt()

    tables = []
    for split in SPLITS:
        source = TaskSource.sample(
            features[split],
            n_tasks=getattr(tasks, split),
            n_way=train_n_way if split == "meta_train" else tasks.n_way,
            n_shot=tasks.n_shot,
            n_query=tasks.n_query,
            n_images=facts["n_images"][split],
            seed=seed,
            split=split,
        )
        table = source.to_table()
        table.insert(0, "split", split)
        tables.append(table)

    write_tensors(
        data / "tasks" / "features.safetensors",
        {name: value / scale for name, value in features.items()},
        facts | {"scale": scale.item()},
    )
    # for methods that change the body, and to time what a user meets: from images to weights
    write_tensors(data / "tasks" / "images.safetensors", {name: images.images for name, images in splits.items()}, {})
    write_table(data / "tasks" / "tasks.parquet", pd.concat(tables, ignore_index=True))
    say(
        ", ".join(f"{split}: {getattr(tasks, split)} tasks from {len(splits[split].names)} classes" for split in SPLITS)
    )


def _embed_all(body: torch.nn.Module, splits: dict[str, ImageSet], tasks: parameters.Tasks) -> dict[str, torch.Tensor]:
    """Features of every image (C, I, F); of meta-training images also of ``views`` augmented copies (C, (1 + views)·I, F).

    Kept in the cache: tasks of other sizes and seeds are drawn over the same features.
    """
    augment, views = augmentation(tasks.augment), tasks.views
    cache = Cache("features")
    images = splits["meta_train"].images
    key = digest(
        "features",
        *body.state_dict().values(),
        *(splits[split].images for split in SPLITS),
        views,
        tasks.augment.model_dump(),
    )
    if path := cache.find(key):
        return read_tensors(path)[0]
    features = {split: embed(body, splits[split].images) for split in SPLITS}
    copies = [features["meta_train"]]
    for row in follow(({"view": view} for view in range(views)), name="augmented views", total=views, show="view"):
        view = augment(to_float(images.flatten(0, 1)), generator(0, "augmented view", row["view"]))
        copies.append(embed(body, view).unflatten(0, images.shape[:2]))
    features["meta_train"] = torch.cat(copies, dim=1)
    cache.keep(key, features, {})
    return features


if __name__ == "__main__":
    run(main)
