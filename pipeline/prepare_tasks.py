"""Stage 2: features of every image, once, and the tasks of the three splits -> data/tasks/."""

from pathlib import Path

import pandas as pd
import torch

from ltdi.bodies import BODIES
from ltdi.bodies.pretraining import embed
from ltdi.datasets import SPLITS, expand_classes, to_float
from ltdi.seeding import generator
from ltdi.store import read_tensors, write_table, write_tensors
from ltdi.tasks import TaskSource
from pipeline import params as parameters
from pipeline.images import augmentation, image_sets
from pipeline.progress import follow, say
from pipeline.stage import deterministic, device, run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "data", "tasks")
    tasks, seed = params.tasks, params.seed
    deterministic()
    body = _load_body(data).to(device(), memory_format=torch.channels_last)
    splits = image_sets(params.data)
    facts = {"train_classes": len(splits["meta_train"].names)}
    splits["meta_train"] = expand_classes(splits["meta_train"], tasks.transforms)

    features = {split: embed(body, splits[split].images) for split in SPLITS}
    # scaled, not centred: the closed-form heads rely on features >= 0
    scale = features["meta_train"].square().mean().sqrt()
    if tasks.views:
        augment, images = augmentation(tasks.augment), splits["meta_train"].images
        rows = ({"view": view} for view in range(tasks.views))
        views = [
            embed(body, augment(to_float(images.flatten(0, 1)), generator(seed, "view", int(row["view"])))).unflatten(0, images.shape[:2])
            for row in follow(rows, name="augmented views", total=tasks.views)
        ]
        features["views"] = torch.stack(views)

    tables = []
    for split in SPLITS:
        source = TaskSource.sample(
            features[split],
            n_tasks=getattr(tasks, split),
            n_way=tasks.n_way,
            n_shot=tasks.n_shot,
            n_query=tasks.n_query,
            seed=seed,
            split=split,
        )
        table = source.to_table()
        table.insert(0, "split", split)
        tables.append(table)

    write_tensors(data / "tasks" / "features.safetensors", {name: value / scale for name, value in features.items()}, facts | {"scale": scale.item()})
    write_table(data / "tasks" / "tasks.parquet", pd.concat(tables, ignore_index=True))
    say(", ".join(f"{split}: {getattr(tasks, split)} tasks from {len(splits[split].names)} classes" for split in SPLITS))


def _load_body(data: Path) -> torch.nn.Module:
    weights, shape = read_tensors(data / "body" / "body.safetensors")
    body = BODIES[shape["name"]](shape["channels"], filters=shape["filters"])
    body.load_state_dict(weights)
    return body.eval().requires_grad_(False)


if __name__ == "__main__":
    run(main)
