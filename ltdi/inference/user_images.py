"""The images that a user names: folders, files or what is in memory, read as the run's own; their features, and what
these say of a task."""

import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.datasets import Picture, each_of, find_images
from ltdi.inference.user_tables import is_table, listed_files
from ltdi.store import digest
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.console import progress
from ltdi.utils.errors import InputError, Remark

IMAGES_TOGETHER = 1000
"""How many images are in memory at a time."""

Pictures = str | Path | Picture | Sequence[str | Path | Picture]
"""Images: a folder, a file, an image in memory as a file would show it, several of them, or an array or a tensor of
several; ``datasets.looks`` says what its axes and its numbers mean."""


def listed_of(pictures: Pictures, *, strict: bool = True) -> Sequence[Any]:
    """One item an image; a folder's in the order of their names. Not ``strict``: what in a folder is no image that is
    read, too, to be left out later.

    Raises:
        InputError: there is no such file, no folder with images, or nothing that holds images.
    """
    several: Any = pictures
    if isinstance(several, np.ndarray) and several.dtype.kind in "OSU":  # of paths, or of images of unequal sizes
        several = several.tolist()
    if isinstance(several, np.ndarray | Tensor):
        return each_of(several)
    is_one = isinstance(several, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | zipfile.Path)
    if is_one or hasattr(several, "read"):
        several = [several]
    if isinstance(several, Mapping) or not isinstance(several, Iterable):
        raise InputError(
            f"images of type {type(several).__name__}; give a folder, a file, an image in memory or a list of these"
        )
    listed: list[Any] = []
    for each in several:
        if not isinstance(each, str | os.PathLike):
            listed.append(each)
            continue
        place = Path(each)
        if is_table(place):
            listed += listed_files(place)
            continue
        is_one = place.is_file() or not (strict or place.is_dir() or not os.path.lexists(place))
        files = [place] if is_one else list(find_images(place, strict=strict).values())
        if not files:
            raise InputError(f"{place}: no such file, and no folder with images; name images or folders of them")
        listed += files
    return listed


def images_of(extractor: FeatureExtractor, listed: Sequence[Any], first: int = 0) -> Tensor:
    """uint8 (M, channels, size, size) of images that are numbered from ``first`` on."""
    if not len(listed):
        raise InputError("a class without images; give one or more")
    return extractor.read(listed, first)


def images_by_class(extractor: FeatureExtractor, classes: Mapping[str, Pictures]) -> dict[str, Tensor]:
    """Those of each class, uint8 (K_n, channels, size, size). That two classes hold the same image is remarked.

    Raises:
        InputError: a class has none, or one cannot be read; of which class it is.
    """
    found: dict[str, Tensor] = {}
    seen: dict[str, str] = {}
    for name, pictures in classes.items():
        try:
            found[name] = images_of(extractor, listed_of(pictures))
        except InputError as error:
            raise InputError(f"class {name!r}: {error}") from error
        for number, content in enumerate(contents(found[name])):
            if (other := seen.setdefault(content, name)) != name:
                told = f"image number {number} of class {name!r} is in class {other!r} too; take it out of one"
                warnings.warn(told, Remark, stacklevel=2)
    return found


def contents(images: Tensor) -> list[str]:
    """A name of each image (M, …), equal for equal ones."""
    return [digest(image) for image in images.cpu()]


def readable(
    extractor: FeatureExtractor, listed: Sequence[Any], first: int, left_out: Callable[[str], object] | None
) -> tuple[list[int], Tensor]:
    """Which of some images can be read, by their places, and these; of each other one ``left_out`` is told why.

    Raises:
        InputError: one cannot, and nobody is to be told.
    """
    try:
        return list(range(len(listed))), images_of(extractor, listed, first)
    except InputError:
        if left_out is None:
            raise
    kept, images = [], [extractor.blank((0,))]
    for i, each in enumerate(listed):
        try:
            images.append(extractor.read([each], first + i))
            kept.append(i)
        except InputError as error:
            left_out(str(error))
    return kept, torch.cat(images)


def embedded(extractor: FeatureExtractor, listed: Sequence[Any], seen: list[str] | None = None) -> Tensor:
    """Features (M, F) of images, a part of these in memory at a time; their ``contents`` are put into ``seen``."""
    features = []
    with progress(len(listed), "images") as done:
        for first in range(0, len(listed), IMAGES_TOGETHER):
            images = images_of(extractor, listed[first : first + IMAGES_TOGETHER], first)
            features.append(extractor(images))
            if seen is not None:
                seen += contents(images)
            done(first + len(images))
    return torch.cat(features)


def context_of_unequal(rows: Sequence[Tensor], images: Sequence[Tensor] | None = None) -> Context:
    """What rows (K_n, F), and images where they are there, of each class say of one task."""
    shots = torch.tensor([len(each) for each in rows], device=rows[0].device)
    mask = torch.arange(int(shots.max()), device=shots.device) < shots[None, :, None]

    def padded(by_class: Sequence[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(by_class), batch_first=True)[None]

    return context_of(padded(rows), None if bool(mask.all()) else mask, None if images is None else padded(images))
