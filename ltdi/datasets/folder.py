"""A folder or zip of images by class: ``class/*``, ``split/class/*`` or ``domain/class/*``.

Splits are folders named as in ``SPLIT_NAMES``; any other folder above the classes' is a domain: photographs, sketches …
"""

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import torch

from ltdi.datasets.image_files import Picture, Streamed, find_images
from ltdi.datasets.images import SPLITS, ImageSet
from ltdi.utils.errors import InputError, short
from ltdi.utils.plain_files import read_rows
from ltdi.utils.seeding import generator

Classes = dict[str, list[Picture]]
Found = dict[str, Classes]
"""The pictures of each class by domain, or by split; under "" where the data set has neither."""

SPLIT_NAMES = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
"""The places of ``SPLITS`` that folders of these names stand for."""

SHARES = (0.60, 0.15, 0.25)
"""Of the classes, in the order of ``SPLITS``, where nothing else splits them."""


def find(folder: Path) -> Found:
    """The pictures below a folder, or in the zip of its name beside it, by domain or split and class. A name is one
    however its accents are written: of a domain that was packed elsewhere a class is the same.

    Raises:
        InputError: there are none, they lie at different depths, a class has none, or two folders beside each other
            have names that look the same.
    """
    files = find_images(folder)
    if not files:
        raise InputError(f"{folder} (folder or .zip): no images; put a folder of images for each class there")
    _no_class_is_empty(folder, files)
    found: Found = {}
    spelled: dict[tuple[str, ...], str] = {}
    for name, file in files.items():
        *above, of_class, _ = name.split("/") if name.count("/") else ("", "", name)
        if len(above) > 1 or not of_class:
            raise InputError(
                f"{folder / name}: images lie in <class>/, <split>/<class>/ or <domain>/<class>/; move it, or name the"
                " folder above the classes"
            )
        for depth, part in enumerate(folders := (*above, of_class)):
            place = tuple(map(composed, folders[: depth + 1]))
            if spelled.setdefault(place, part) != part:
                raise InputError(
                    f"{folder}: two folders beside each other have names that look the same, {ascii(part)} and"
                    f" {ascii(spelled[place])}; rename one, or put their images together"
                )
        found.setdefault(composed("".join(above)), {}).setdefault(composed(of_class), []).append(file)
    if "" in found and len(found) > 1:
        first = next(name for name in found if name)
        raise InputError(
            f"{folder}: images lie both in <class>/ (e.g. {next(iter(found['']))}/) and below {first}/; use one layout"
        )
    return found


def composed(name: str) -> str:
    """A name in the form in which an accent belongs to its letter, where there is one."""
    return unicodedata.normalize("NFC", name)


def _no_class_is_empty(folder: Path, files: Mapping[str, object]) -> None:
    places = {parent for name in files for parent in Path(name).parents}
    for place in sorted(folder.rglob("*")) if folder.is_dir() else ():
        hidden = any(part.startswith(".") for part in place.relative_to(folder).parts)
        if place.is_dir() and not hidden and place.relative_to(folder) not in places and place.name != "images":
            raise InputError(f"{place}: no image; put the class's there, or move the folder elsewhere")


def is_split(found: Mapping[str, object]) -> bool:
    """Whether what stands above the classes are splits, and not domains."""
    return "" not in found and set(map(str.lower, found)) <= set(SPLIT_NAMES)


def by_domain(found: Found) -> Found:
    """All classes by domain: those of several splits together, the images of one that is in several of them too."""
    if not is_split(found):
        return found
    classes: Classes = {}
    for part in found.values():
        for name, pictures in part.items():
            classes.setdefault(name, []).extend(pictures)
    return {"": {name: classes[name] for name in sorted(classes)}}


def split_classes(found: Found, *, table: Path | None = None, seed: int = 0) -> dict[str, Found]:
    """The classes in three parts that do not overlap: as a ``table`` of class,split says, as the folders of splits do
    where no class is in two of them, else by chance, ``SHARES`` of them each. A class is in one part in all domains.

    Raises:
        InputError: the table does not fit, or a part has fewer than two classes.
    """
    if table is not None:
        place = read_table(table)
        if missing := [name for name in place if name not in _names(found)]:
            raise InputError(f"data.splits = {table}: there is no class {missing[0]!r}; take its line out")
    elif is_split(found) and len({*map(_place, found)}) == 3 and len(_names(found)) == sum(map(len, found.values())):
        place = {name: _place(split) for split, classes in found.items() for name in classes}
    else:
        names = _names(found)
        order = torch.randperm(len(names), generator=generator(seed, "class split")).tolist()
        ends = [round(len(names) * sum(SHARES[: i + 1])) for i in range(3)]
        place = {names[i]: sum(j >= end for end in ends[:2]) for j, i in enumerate(order)}
    parts = {}
    for i, split in enumerate(SPLITS):
        own = {domain: {n: v for n, v in classes.items() if place.get(n) == i} for domain, classes in found.items()}
        parts[split] = by_domain({domain: classes for domain, classes in own.items() if classes})
        if len(_names(parts[split])) < 2:
            raise InputError(
                f"{len(_names(parts[split]))} classes for {split}, of {len(_names(found))} in all; a task needs two:"
                " get more, or say in data.splits, a table of class,split, which split each belongs to"
            )
    return parts


def image_set(found: Found, *, size: int, what: str = "") -> ImageSet:
    """The classes of all domains as one set, ``<domain>/<class>`` where there are domains, and ``<what>/…`` where it is
    named."""
    names, counts, domains, pictures = [], [], [], []
    for domain, classes in found.items():
        for name, own in classes.items():
            names.append("/".join(part for part in (what, domain, name) if part))
            counts.append(len(own))
            domains.append("/".join(part for part in (what, domain) if part))
            pictures += own
    return ImageSet(Streamed(tuple(pictures), "RGB", size), tuple(names), tuple(counts), tuple(domains))


def _names(found: Found) -> list[str]:
    return sorted({name for classes in found.values() for name in classes})


def _place(split: str) -> int:
    return SPLIT_NAMES[split.lower()]


def read_table(table: Path) -> dict[str, int]:
    """The place in ``SPLITS`` of each class of a table of class,split.

    Raises:
        InputError: it cannot be read, holds something else, or says two splits of a class.
    """
    try:
        found = read_rows(table, kind="split")
    except InputError as error:
        raise InputError(f"data.splits = {error}") from error
    if not {"class", "split"} <= set(found.columns):
        raise InputError(
            f"data.splits = {table}: must have the columns class,split and a line a class, and has"
            f" {short(','.join(found.columns))}"
        )
    places: dict[str, int] = {}
    for row, line in zip(found.rows, found.lines):
        told = dict(zip(found.columns, row))
        name, split = composed(told["class"]), told["split"].strip()
        if split.lower() not in SPLIT_NAMES:
            raise InputError(f"data.splits = {table}: split {split!r} of {name!r}; allowed: train, val, test")
        if places.setdefault(name, _place(split)) != _place(split):
            raise InputError(
                f"data.splits = {table}: class {name!r} is there again in line {line}, and of another split; leave one"
                " of its lines"
            )
    return places
