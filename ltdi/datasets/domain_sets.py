"""Domains: all classes of a data set, or of one of its parts, as image files whose tasks are drawn within them."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from ltdi.datasets import folder, glyphs, mini_imagenet, omniglot, photographs
from ltdi.datasets.folder import Found
from ltdi.datasets.image_files import Streamed
from ltdi.datasets.images import ImageSet
from ltdi.datasets.styles import LOOKS
from ltdi.utils.errors import InputError


def _glyphs(root: Path, download: bool) -> Found:
    """As files would show them: ink dark on white."""
    return {
        split.removeprefix("meta_"): {
            name: list(images)
            for name, images in zip(part.names, (255 - part.images[:]).numpy().reshape(len(part.names), -1, 28, 28))
        }
        for split, part in glyphs.load().items()
    }


def _omniglot(root: Path, download: bool) -> Found:
    """Both halves as splits: "train" is images_background, "test" images_evaluation."""
    halves = omniglot.files(root, download=download)
    return {split: dict(halves[half]) for split, half in zip(("train", "test"), omniglot.CHARACTERS)}


def _mini_imagenet(root: Path, download: bool) -> Found:
    return {
        split.removeprefix("meta_"): {name: list(files) for name, files in classes.items()}
        for split, classes in mini_imagenet.files(root, download=download).items()
    }


FINDERS: dict[str, Callable[[Path, bool], Found]] = {
    "glyphs": _glyphs,
    "omniglot": _omniglot,
    "mini_imagenet": _mini_imagenet,
}


def domains(
    entry: str,
    root: Path,
    *,
    size: int,
    download: bool = False,
    most: int | None = None,
    without: Collection[str] = (),
) -> list[ImageSet]:
    """The domains that an entry of ``data.domains`` names: ``<data set>``, ``<data set>/<domain or split>``, or the
    same of a folder below ``root``; any of them with ``:<look>`` behind it, as another kind of picture would show it. A
    data set of several domains is as many; ``most`` images of each class, spread evenly, ``without`` some classes.

    Raises:
        InputError: there is no such data set, folder, domain or look, or no class is left of one.
    """
    place, _, look = entry.partition(":")
    if look and look not in LOOKS:
        raise InputError(f"data.domains: {entry} has an unknown look {look}; allowed: {', '.join(LOOKS)}")
    name, _, part = place.partition("/")
    found = _found(name, root, download)
    if part:
        if part not in found:
            allowed = ", ".join(f"{name}/{each}" for each in found if each) or f"{name} alone"
            raise InputError(f"data.domains: {place} is not there; allowed: {allowed}")
        found = {part: found[part]}
    else:
        found = folder.by_domain(found)
    found = {part: {c: own for c, own in classes.items() if c not in without} for part, classes in found.items()}
    if not all(found.values()):
        raise InputError(f"data.domains: {entry} has no class of its split, as data.splits says; take it out")
    sets = [
        folder.image_set({domain: _spread(classes, most)}, size=size, what=name) for domain, classes in found.items()
    ]
    return [_seen_as(each, look) for each in sets] if look else sets


def _seen_as(images: ImageSet, look: str) -> ImageSet:
    assert isinstance(images.images, Streamed) and images.domains is not None
    names, of = (tuple(f"{each}:{look}" for each in own) for own in (images.names, images.domains))
    return ImageSet(images.images.seen_as(look), names, images.counts, of)


def _found(name: str, root: Path, download: bool) -> Found:
    if name in FINDERS:
        return FINDERS[name](root, download)
    if name in photographs.KNOWN:
        return photographs.find(name, root, download=download)
    if (root / name).is_dir() or (root / f"{name}.zip").is_file():
        return folder.find(root / name)
    allowed = ", ".join((*FINDERS, *photographs.KNOWN))
    raise InputError(f"data.domains: {name} is no folder or .zip in {root} and no known data set; those are {allowed}")


def _spread(classes: Mapping[str, list], most: int | None) -> dict[str, list]:
    """As many of each class as ``most``, not the first ones alone: files are often sorted."""
    if most is None:
        return dict(classes)
    return {
        name: [own[i] for i in np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)]
        for name, own in classes.items()
    }
