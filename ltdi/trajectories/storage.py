"""What the stages hand to each other, and a finished run consists of: written, read back and checked."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.initialization import Initialization, initialization_of
from ltdi.learners import learner_of
from ltdi.store import read_json, read_table, read_tensors, write_table, write_tensors
from ltdi.store.schemas import INDEX, INITIALIZATION, NAMES, SPLITS, TRAJECTORIES, WEIGHTS, made_from
from ltdi.tasks.base import TaskSource
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.tasks.loading import SOURCES
from ltdi.trajectories.collection import Recorded, Trajectories
from ltdi.utils.errors import InputError

SHARD_NUMBERS = 2**21
"""How many numbers of weights are held in memory and written as one file."""


# -- where training starts ---------------------------------------------------------------------------


def write_initialization(
    data: Path, initialization: Initialization, seen: FeatureMap | None, facts: Mapping[str, Any]
) -> None:
    """``facts``: the scenario's name, and its ``source`` and what it ``provides``."""
    tensors, values = initialization.state()
    if seen is not None:
        of_map, hparams = seen.state()
        tensors, values = tensors | of_map, values | hparams
    values = values | {"facts": dict(facts)}
    file = data / "trajectories" / "initialization.safetensors"
    write_tensors(file, tensors, values, kind="initialization", made_from=made_from(data, "trajectories"))


def load_initialization(
    data: Path, device: torch.device | str = "cpu"
) -> tuple[Initialization, FeatureMap | None, dict[str, Any]]:
    """The start, what features are seen through, and the facts of the scenario."""
    file = data / "trajectories" / "initialization.safetensors"
    tensors, values = read_tensors(file, kind=INITIALIZATION)
    with INITIALIZATION.interpreting(file):
        initialization = initialization_of(learner_of(values["learner"]), tensors, values).to(device)
        seen = FeatureMap.from_state(tensors, values).to(device) if "normalise" in values else None
    return initialization, seen, values["facts"]


def load_sources(
    data: Path,
    *,
    splits: Collection[str] = SPLITS,
    images_of: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The tasks of the splits, their features seen as the start's; of the splits ``images_of`` with their images."""
    _, seen, facts = load_initialization(data, device)
    sources = SOURCES[facts["source"]](data / "tasks", splits, images_of)
    moved = {split: source.to(device) for split, source in sources.items()}
    return moved if seen is None else {split: source.through(seen) for split, source in moved.items()}


# -- trajectories ------------------------------------------------------------------------------------


def index_rows(split: str, shard: str, tasks: Tensor, recorded: Recorded) -> pd.DataFrame:
    """The index's rows for one shard: where each task's trajectory is, and its losses and scores by point."""
    columns: dict[str, Any] = {
        "split": split,
        "task": tasks.tolist(),
        "shard": shard,
        "row": range(len(tasks)),
        "kept": recorded.finite.tolist(),
    }
    for i in range(recorded.points.shape[1]):
        columns |= {f"loss_w{i}": recorded.losses[:, i].tolist(), f"score_w{i}": recorded.scores[:, i].tolist()}
    return pd.DataFrame(columns)


def write_index(data: Path, index: pd.DataFrame) -> None:
    """After the start and the shards, because it says of which it is."""
    folder = data / "trajectories"
    before = [
        *made_from(data, "trajectories"),
        folder / "initialization.safetensors",
        *map(folder.joinpath, index.shard.unique()),
    ]
    write_table(data / "trajectories" / "index.parquet", index, made_from=before)


def read_index(data: Path) -> pd.DataFrame:
    """Where each task's trajectory is, and its losses and scores."""
    return read_table(data / "trajectories" / "index.parquet", kind=INDEX)


def load_trajectories(data: Path, split: str) -> tuple[Trajectories, Tensor]:
    """The trajectories of a split, its files mapped, and the numbers of the tasks that have one (M,).

    Raises:
        InputError: a shard is missing or not what was written, or all were dropped.
    """
    folder = data / "trajectories"
    index = read_index(data)
    index = index[(index.split == split) & index.kept].sort_values(["shard", "row"])
    if index.empty:
        raise InputError(
            f"{folder}: every trajectory of {split} was dropped; lower trajectories.lr and run `dvc repro`"
        )
    parts, shards = [], sorted(index["shard"].unique())
    for shard in shards:
        parts.append(read_tensors(folder / shard, kind=TRAJECTORIES)[0]["points"])
    for j, shard in enumerate(shards):
        if index["row"][index["shard"] == shard].max() >= len(parts[j]):
            raise INDEX.refuse(folder / "index.parquet", f"names a row that {shard} does not have")
    part = torch.tensor([shards.index(shard) for shard in index["shard"]])
    return Trajectories(parts, part, torch.tensor(index["row"].tolist())), torch.tensor(index["task"].tolist())


def taken(source: TaskSource, kept: Tensor, data: Path) -> Any:
    """The tasks that have a trajectory, as ``load_trajectories`` says.

    Raises:
        InputError: one is not there.
    """
    if int(kept.max()) >= len(source):
        raise INDEX.refuse(data / "trajectories" / "index.parquet", f"names a task that is none of the {len(source)}")
    return source.take(kept)


# -- weights -----------------------------------------------------------------------------------------


def write_weights(folder: Path, first: int, tensors: Mapping[str, Tensor]) -> None:
    """What is generated for the tasks from number ``first`` on: weights ``w`` (m, D), or the ``scores`` (m,) of a
    learner of the method's own."""
    before = made_from(folder.parents[1], "weights")
    write_tensors(folder / f"{first:06d}.safetensors", tensors, {"first": first}, kind="weights", made_from=before)


def read_weights(folder: Path) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The numbers of the tasks and their tensors, file by file, mapped.

    Raises:
        InputError: there is no file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: no weights; run `dvc repro`")
    found = []
    for file in files:
        tensors, values = read_tensors(file, kind=WEIGHTS)
        if {name: value.dim() for name, value in tensors.items()} not in ({"w": 2}, {"scores": 1}):
            raise WEIGHTS.refuse(file, f"holds {', '.join(sorted(tensors)) or 'nothing'}, and w or scores are expected")
        found.append((values["first"] + torch.arange(len(next(iter(tensors.values())))), tensors))
    return found


def method_of_run(data: Path, method: str = "") -> str:
    """The method of a finished run that is meant: ``method``, or the trained one where none is named.

    Raises:
        InputError: the folder holds no finished run, or not that method.
    """
    if not (data / "model" / "methods").is_dir():
        raise InputError(f"{data}: no finished run; run `dvc repro`, or name a run's data folder")
    trained, baselines = names(data)
    if (method or trained) not in (trained, *baselines):
        raise InputError(f"--method {method} is not in {data}; allowed: {', '.join((trained, *baselines))}")
    return method or trained


def names(data: Path) -> tuple[str, list[str]]:
    """The method of a run and its baselines.

    Raises:
        InputError: the file does not hold them.
    """
    found = read_json(data / "model" / "methods" / "names.json", kind=NAMES)
    return found["method"], found["baselines"]
