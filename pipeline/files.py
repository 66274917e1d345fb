"""What the stages hand to each other, read back and checked."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ltdi.errors import InputError
from ltdi.store import checksum, read_table, read_tensors
from ltdi.tasks import TaskSource
from ltdi.trajectories import Start, Trajectories


def load_tasks(
    data: Path,
    *,
    splits: Collection[str] | None = None,
    images_of: Collection[str] = (),
) -> dict[str, TaskSource]:
    """The tasks of the splits, or of all, over the features of their images; of the splits ``images_of`` over the images as well."""
    features, facts = read_tensors(data / "tasks" / "features.safetensors")
    table = read_table(data / "tasks" / "tasks.parquet")
    sources = {
        split: TaskSource.from_table(features[split], table[table.split == split], facts["n_images"][split])
        for split in splits or table.split.unique()
    }
    if images_of:
        images, _ = read_tensors(data / "tasks" / "images.safetensors")
        sources |= {split: sources[split].with_images(images[split]) for split in images_of}
    return sources


def load_start(data: Path, device: torch.device) -> Start:
    tensors, values = read_tensors(data / "trajectories" / "start.safetensors")
    return Start.from_state({name: value.to(device) for name, value in tensors.items()}, values)


def load_trajectories(data: Path, split: str) -> tuple[Trajectories, Tensor]:
    """The trajectories of a split, and the rows of its tasks that have one (M,).

    Raises:
        InputError: a shard is missing or not what was written.
    """
    index = read_table(data / "trajectories" / "index.parquet")
    index = index[(index.split == split) & index.kept]
    if index.empty:
        raise InputError(
            f"{data / 'trajectories'}: every trajectory of {split} was dropped; lower trajectories.lr and run `dvc repro`"
        )
    shards = []
    for shard, rows in index.groupby("shard", sort=True):
        path = data / "trajectories" / shard
        if not path.exists() or checksum(path) != rows.checksum.iloc[0]:
            raise InputError(
                f"{path}: shard is missing, truncated or altered; delete {path.parent} and run `dvc repro`, it alone is collected again"
            )
        tensors, _ = read_tensors(path)
        shards.append({name: value[torch.tensor(rows.row.tolist())] for name, value in tensors.items()})
    joined = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    return Trajectories(joined["points"], joined["losses"], joined["accuracies"]), torch.tensor(
        index.sort_values(["shard", "row"]).task.tolist()
    )


def index_rows(split: str, shard: str, sha: str, tasks: Tensor, trajectories: Trajectories) -> pd.DataFrame:
    """The index's rows for one shard: where each task's trajectory is, and its losses and accuracies by point."""
    columns = {
        "split": split,
        "task": tasks.tolist(),
        "shard": shard,
        "row": range(len(tasks)),
        "checksum": sha,
        "kept": trajectories.finite.tolist(),
    }
    for i in range(trajectories.points.shape[1]):
        columns |= {
            f"loss_w{i}": trajectories.losses[:, i].tolist(),
            f"accuracy_w{i}": trajectories.accuracies[:, i].tolist(),
        }
    return pd.DataFrame(columns)
