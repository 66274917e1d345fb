"""The prepared tasks, read back as the sources of tasks that they are."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ltdi.store import read_table, read_tensors
from ltdi.store.schemas import EXAMPLES, FEATURES, IMAGES, TASKS
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.tasks.domain_tasks import DomainTasks
from ltdi.tasks.named_class_tasks import NamedClasses, NamedClassTasks
from ltdi.tasks.text_examples import Examples
from ltdi.tasks.text_pairs import Pairs
from ltdi.tasks.text_tasks import Reading, TextTasks
from ltdi.utils.errors import InputError

T = TypeVar("T", bound=ClassTasks)


def read_class_tasks(folder: Path, splits: Collection[str], images_of: Collection[str] = ()) -> dict[str, ClassTasks]:
    """The prepared tasks of the splits, from features.safetensors and tasks.parquet; of some with images.safetensors'
    images."""
    features, _ = read_tensors(folder / "features.safetensors", kind=FEATURES)
    table = read_table(folder / "tasks.parquet", kind=TASKS)
    sources = {}
    for split in splits:
        classes = Classes(features[split], features[f"{split}/counts"])
        sources[split] = _tasks_of(folder, partial(ClassTasks.from_table, classes, table[table.split == split]))
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
        with TASKS.interpreting(folder / "tasks.parquet"):
            of, own = Examples.of(tensors, split), table[table.split == split]
            sources[split] = TextTasks.from_table(of, reading, own, pairs=Pairs.of(tensors))
    return sources


def read_described_tasks(
    folder: Path, splits: Collection[str], images_of: Collection[str] = ()
) -> dict[str, NamedClassTasks]:
    """The same, of classes that are known by their names."""
    tensors, _ = read_tensors(folder / "features.safetensors", kind=FEATURES)
    table, sources = read_table(folder / "tasks.parquet", kind=TASKS), {}
    images = read_tensors(folder / "images.safetensors", kind=IMAGES)[0] if images_of else {}
    for split in splits:
        of = NamedClasses(
            tensors[split],
            tensors[f"{split}/counts"],
            images[split] if split in images_of else None,
            texts=tensors[f"{split}/texts"],
            learned_from=split == "meta_train",
            rows=tensors.get(f"{split}/rows"),
        )
        sources[split] = _tasks_of(folder, partial(NamedClassTasks.from_table, of, table[table.split == split]))
    return sources


def _tasks_of(folder: Path, build: Callable[[], T]) -> T:
    """Tasks of classes and images that are there.

    Raises:
        InputError: the table names others.
    """
    file = folder / "tasks.parquet"
    with TASKS.interpreting(file):
        made = build()
        if not bool(((made.classes >= 0) & (made.classes < made.n_classes)).all()):
            raise TASKS.refuse(file, f"a task is of a class that is none of the {made.n_classes}")
        there = (made.of.counts * made.n_views)[made.classes, None]
        for chosen in (made.support, made.query):
            if not bool(((chosen >= -1) & (chosen < there)).all()):
                raise TASKS.refuse(file, "a task is of an image that its class does not have")
    return made


SOURCES: dict[str, Callable[..., Mapping[str, Any]]] = {
    "classes": read_class_tasks,
    "domains": read_domain_tasks,
    "from_names": read_described_tasks,
    "texts": read_text_tasks,
}
"""How the prepared tasks of a scenario are read back: (folder, splits, images_of) -> the TaskSource of each split."""
