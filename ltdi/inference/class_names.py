"""Classes by their names: of a folder of folders, or as they are given; what a name may be."""

import os
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from ltdi.datasets import find_images
from ltdi.inference.user_tables import is_table, labelled_files
from ltdi.store.schemas import MOST_LETTERS
from ltdi.utils.errors import InputError, Remark, short

PARTS = ("train", "training", "support", "val", "valid", "validation", "dev", "test", "testing", "query")
"""Of a data set, by the names of their folders; what is learned from is first."""


def by_folder(task: Path, at_least: int = 2) -> dict[str, list]:
    """The image files of each class: a folder that holds a folder for each, with all that lies below it.

    Raises:
        InputError: there are fewer than ``at_least``, an image lies in no class's folder, or the folders are not
            classes' but those of a split.
    """
    found = find_images(task)
    by_class: dict[str, list] = {}
    below: dict[str, set[str]] = {}
    for name, file in found.items():
        top, *between, _ = name.split("/") if "/" in name else ("", name)
        by_class.setdefault(top, []).append(file)
        below.setdefault(top, set()).update(between[:1])
    if "" in by_class:
        raise InputError(f"{by_class[''][0]} lies in no class's folder; move it into one")
    if task.is_dir():
        _none_is_empty(task, by_class)
    try:
        check_names(list(by_class))
    except InputError as error:
        raise InputError(f"{task}: {error}") from error
    _are_classes(task, below)
    if len(by_class) < at_least:
        more = "two or more" if at_least > 1 else "one or more"
        raise InputError(
            f"{task} holds images of {len(by_class)} classes; give {more}, each in a folder of its own"
            + _lower(task, below)
        )
    if told := next((_lower(task, {top: inner}) for top, inner in below.items() if len(inner) > 1), ""):
        warnings.warn(
            f"{task}: a class is all that lies in one of its folders, however deep{told}", Remark, stacklevel=2
        )
    return by_class


def by_place(place: Path, at_least: int = 2) -> dict[str, list]:
    """The image files of each class, of a folder of folders or of a table of files and labels.

    Raises:
        InputError: there are fewer classes than ``at_least``, or the folder or the table is not as it must be.
    """
    if not is_table(place):
        return by_folder(place, at_least)
    by_class: dict[str, list] = dict(labelled_files(place))
    try:
        check_names(list(by_class))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    if len(by_class) < at_least:
        raise InputError(f"{place} holds images of {len(by_class)} classes; give {at_least} or more")
    return by_class


def holds_classes(place: Path) -> bool:
    """Whether a place is a folder, or a table of files and labels."""
    return place.is_dir() or is_table(place)


def _none_is_empty(task: Path, filled: Collection[str]) -> None:
    if broken := sorted(each for each in task.iterdir() if each.is_symlink() and not each.exists()):
        raise InputError(f"{broken[0]}: a link that leads nowhere; remove it, or put the class's images there")
    others = (each for each in task.iterdir() if each.name not in filled and not each.name.startswith("."))
    if empty := sorted(each for each in others if each.is_dir()):
        raise InputError(f"{empty[0]} holds no image that is read (PNG, JPEG, WebP, BMP, TIFF, GIF)")


def _are_classes(task: Path, below: Mapping[str, Collection[str]]) -> None:
    """
    Raises:
        InputError: the folders of a root, each with the names of the folders in it, are parts of a data set.
    """
    parts = [each for part in PARTS for each in below if each.lower() == part and below[each]]
    if parts and (len(parts) == len(below) or len(parts) > 1):
        raise InputError(
            f"{task} holds {', '.join(sorted(below))}, which are parts of a data set and no classes; name the folder"
            f" that the classes' folders lie in, e.g. {task / parts[0]}"
        )


def _lower(task: Path, below: Mapping[str, Collection[str]]) -> str:
    """Where the folders in a root's folders may be what is meant."""
    deep = next(((top, sorted(inner)) for top, inner in below.items() if inner), None)
    return f"; {task / deep[0]} holds {', '.join(deep[1][:3])}: to tell these apart, name it" if deep else ""


def by_name(classes: str | Path | Mapping[Any, Any], at_least: int = 2) -> dict[str, Any]:
    """The images of each class by its name: those of a folder, or those that are given.

    Raises:
        InputError: a name or the folder is not as it must be.
    """
    if isinstance(classes, str | os.PathLike):
        return by_place(Path(classes), at_least)
    if not isinstance(classes, Mapping):
        raise InputError(f"classes of type {type(classes).__name__}; give a folder, or the images of each by its name")
    return dict(zip(named(classes), classes.values()))


def named(classes: Iterable[object]) -> tuple[str, ...]:
    """The names of classes as text, which they are kept as: of numbers the digits.

    Raises:
        InputError: one is neither text nor a number, or cannot be kept (``check_names``).
    """
    names = list(classes)
    if strange := [each for each in names if not isinstance(each, str | Number | np.bool_)]:
        raise InputError(f"class {short(strange[0])} is of type {type(strange[0]).__name__}; name it by text")
    told = tuple(map(str, names))
    check_names(told)
    return told


def different(names: Iterable[str]) -> int:
    """How many of some names look different: an accent may belong to its letter, or be a character behind it, and
    neither blanks at an end nor what has no width are seen."""
    return len(set(map(looks, names)))


def looks(name: str) -> str:
    """What is seen of a name: equal for those that look the same."""
    seen = (each for each in unicodedata.normalize("NFC", name) if unicodedata.category(each) != "Cf")
    return " ".join("".join(seen).split())


def check_names(names: Sequence[str]) -> None:
    """
    Raises:
        InputError: one is empty, too long or no text, or two look the same.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not looks(name) or len(name) > MOST_LETTERS:
            raise InputError(
                f"class {short(name)}: a name is of 1 to {MOST_LETTERS:,} characters that are seen; rename it"
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"class {short(name)}: its name is no text in UTF-8; rename it") from error
        if looks(name) in seen:
            raise InputError(
                f"classes {short(seen[looks(name)])} and {short(name)} have names that look the same; rename one"
            )
        seen[looks(name)] = name
