"""What the stages hand to each other, and a finished run consists of: written, read back and checked."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.classes import Classes, ClassTasks
from ltdi.described import DescribedClasses, DescribedTasks
from ltdi.domains import DomainTasks
from ltdi.errors import InputError
from ltdi.features import FeatureMap
from ltdi.learners import learner_of
from ltdi.lineage import made_from
from ltdi.schemas import EXAMPLES, FEATURES, IMAGES, INDEX, NAMES, SPLITS, START, TASKS, TRAJECTORIES, WEIGHTS
from ltdi.starts import Start, start_of
from ltdi.store import read_json, read_table, read_tensors, write_table, write_tensors
from ltdi.text_tasks import Examples, Reading, TextTasks
from ltdi.trajectories import Recorded, Trajectories


def read_class_tasks(folder: Path, splits: Collection[str], images_of: Collection[str] = ()) -> dict[str, ClassTasks]:
    """The prepared tasks of the splits, from features.safetensors and tasks.parquet; of some with images.safetensors'
    images."""
    features, _ = read_tensors(folder / "features.safetensors", kind=FEATURES)
    table = read_table(folder / "tasks.parquet", kind=TASKS)
    sources = {}
    for split in splits:
        classes = Classes(features[split], features[f"{split}/counts"])
        sources[split] = ClassTasks.from_table(classes, table[table.split == split])
    if images_of:
        if not has_images(folder):
            raise InputError(
                f"{folder}: the images of these tasks were too many to be kept with them; choose a method that works on"
                " features, or name images of your own"
            )
        images, _ = read_tensors(folder / "images.safetensors", kind=IMAGES)
        sources |= {split: sources[split].with_images(images[split]) for split in images_of}
    return sources


def read_domain_tasks(folder: Path, splits: Collection[str], images_of: Collection[str] = ()) -> dict[str, ClassTasks]:
    """The same, of tasks that lie within domains."""
    features, facts = read_tensors(folder / "features.safetensors", kind=FEATURES)
    found: dict[str, ClassTasks] = {}
    for split, each in read_class_tasks(folder, splits, images_of).items():
        sizes = features[f"{split}/domains"].tolist()
        found[split] = DomainTasks(each.of, each.classes, each.support, each.query, sizes, power=facts["domain_power"])
    return found


def has_images(folder: Path) -> bool:
    """Whether the prepared tasks in a folder have their images beside them."""
    return (folder / "images.safetensors").is_file()


def read_text_tasks(folder: Path, splits: Collection[str], images_of: Collection[str] = ()) -> dict[str, TextTasks]:
    """The prepared tasks of the splits, from examples.safetensors and tasks.parquet."""
    tensors, facts = read_tensors(folder / "examples.safetensors", kind=EXAMPLES)
    table = read_table(folder / "tasks.parquet", kind=TASKS)
    sources = {}
    for split in splits:
        reading = Reading(**facts["reading"], apart=split in facts["apart"])
        sources[split] = TextTasks.from_table(Examples.of(tensors, split), reading, table[table.split == split])
    return sources


def read_described_tasks(
    folder: Path, splits: Collection[str], images_of: Collection[str] = ()
) -> dict[str, DescribedTasks]:
    """The same, of classes that are known by their names."""
    tensors, _ = read_tensors(folder / "features.safetensors", kind=FEATURES)
    table, sources = read_table(folder / "tasks.parquet", kind=TASKS), {}
    images = read_tensors(folder / "images.safetensors", kind=IMAGES)[0] if images_of else {}
    for split in splits:
        of = DescribedClasses(
            tensors[split],
            tensors[f"{split}/counts"],
            images[split] if split in images_of else None,
            texts=tensors[f"{split}/texts"],
            learned_from=split == "meta_train",
            rows=tensors.get(f"{split}/rows"),
        )
        sources[split] = DescribedTasks.from_table(of, table[table.split == split])
    return sources


SOURCES: dict[str, Callable[..., Mapping[str, Any]]] = {
    "classes": read_class_tasks,
    "domains": read_domain_tasks,
    "described": read_described_tasks,
    "texts": read_text_tasks,
}
"""How the prepared tasks of a scenario are read back: (folder, splits, images_of) -> the TaskSource of each split."""

SHARD_NUMBERS = 2**21
"""How many numbers of weights are held in memory and written as one file."""


# -- where training starts ---------------------------------------------------------------------------


def write_start(data: Path, start: Start, seen: FeatureMap | None, facts: Mapping[str, Any]) -> None:
    """``facts``: the scenario's name, and its ``source`` and what it ``provides``."""
    tensors, values = start.state()
    if seen is not None:
        of_map, knobs = seen.state()
        tensors, values = tensors | of_map, values | knobs
    values = values | {"facts": dict(facts)}
    file = data / "trajectories" / "start.safetensors"
    write_tensors(file, tensors, values, kind="start", made_from=made_from(data, "trajectories"))


def load_start(data: Path, device: torch.device | str = "cpu") -> tuple[Start, FeatureMap | None, dict[str, Any]]:
    """The start, what features are seen through, and the facts of the scenario."""
    file = data / "trajectories" / "start.safetensors"
    tensors, values = read_tensors(file, kind=START)
    with START.interpreting(file):
        start = start_of(learner_of(values["learner"]), tensors, values).to(device)
        seen = FeatureMap.from_state(tensors, values).to(device) if "normalise" in values else None
    return start, seen, values["facts"]


def load_sources(
    data: Path,
    *,
    splits: Collection[str] = SPLITS,
    images_of: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The tasks of the splits, their features seen as the start's; of the splits ``images_of`` with their images."""
    _, seen, facts = load_start(data, device)
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
        folder / "start.safetensors",
        *map(folder.joinpath, index.shard.unique()),
    ]
    write_table(data / "trajectories" / "index.parquet", index, made_from=before)


def load_trajectories(data: Path, split: str) -> tuple[Trajectories, Tensor]:
    """The trajectories of a split, its files mapped, and the numbers of the tasks that have one (M,).

    Raises:
        InputError: a shard is missing or not what was written, or all were dropped.
    """
    folder = data / "trajectories"
    index = read_table(folder / "index.parquet", kind=INDEX)
    index = index[(index.split == split) & index.kept].sort_values(["shard", "row"])
    if index.empty:
        raise InputError(
            f"{folder}: every trajectory of {split} was dropped; lower trajectories.lr and run `dvc repro`"
        )
    parts, shards = [], sorted(index["shard"].unique())
    for shard in shards:
        parts.append(read_tensors(folder / shard, kind=TRAJECTORIES)[0]["points"])
    part = torch.tensor([shards.index(shard) for shard in index["shard"]])
    return Trajectories(parts, part, torch.tensor(index["row"].tolist())), torch.tensor(index["task"].tolist())


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


def names(data: Path) -> tuple[str, list[str]]:
    """The method of a run and its controls.

    Raises:
        InputError: the file does not hold them.
    """
    found = read_json(data / "model" / "methods" / "names.json", kind=NAMES)
    return found["method"], found["controls"]
