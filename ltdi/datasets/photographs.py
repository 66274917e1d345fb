"""The usual data sets of photographs by name, as their authors or torchvision lay them down, in a folder or a zip."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltdi.datasets import folder
from ltdi.datasets.folder import Classes, Found
from ltdi.datasets.image_files import find_images
from ltdi.datasets.images import ImageSet
from ltdi.utils.errors import InputError
from ltdi.utils.plain_files import text_of


@dataclass(frozen=True)
class Known:
    """Where a data set may lie below ``data.root``, folders or zips of these names; how its classes are read there; the
    class of torchvision that loads it from ``data.root`` itself, and its splits; where it is to be had."""

    places: tuple[str, ...]
    source: str
    read: Callable[[Path], Found] = folder.find
    torchvision: str = ""
    splits: tuple[dict[str, Any], ...] = ()


def _train_alone(home: Path) -> Found:
    """``train/<class>/*`` or ``train/<class>/images/*``: what stands beside it is the same classes."""
    classes: Classes = {}
    for name, file in find_images(home).items():
        parts = [part for part in name.split("/")[:-1] if part != "images"]
        if len(parts) == 2 and parts[0] == "train":
            classes.setdefault(parts[1], []).append(file)
    return {"": classes}


def _domains(home: Path) -> Found:
    """``<domain>/<class>/*``, a domain a folder or a zip of its own."""
    if not home.is_dir():
        return folder.find(home)
    found: Found = {}
    for name in sorted({place.name.removesuffix(".zip") for place in home.iterdir() if not place.name.startswith(".")}):
        classes: Classes = {}
        for image, file in find_images(home / name).items():
            classes.setdefault(image.split("/")[0], []).append(file)
        found |= {name: classes} if classes else {}
    return found


def _pets(home: Path) -> Found:
    """``images/<Breed>_<number>.jpg``"""
    classes: Classes = {}
    for name, file in find_images(home).items():
        *above, image = name.split("/")
        if above in ([], ["images"]):
            classes.setdefault(image.rpartition("_")[0], []).append(file)
    return {"": classes}


def _aircraft(home: Path) -> Found:
    """``data/images/*.jpg``, the variants of its lists ``data/images_variant_{trainval,test}.txt``."""
    images = find_images(home / "data" / "images")
    found: Found = {"": {}}
    for split in ("trainval", "test"):
        table = home / "data" / f"images_variant_{split}.txt"
        lines = text_of(table).splitlines() if table.is_file() else []
        for number, _, variant in (line.partition(" ") for line in lines):
            if f"{number}.jpg" in images:
                # names of files must not hold the slash of "F-16A/B"
                found[""].setdefault(variant.replace("/", "_"), []).append(images[f"{number}.jpg"])
    return found


_BOTH = ({"train": True}, {"train": False})
KNOWN = {
    "tiny_imagenet": Known(
        ("tiny-imagenet-200", "tiny-imagenet-200-part"),
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        _train_alone,
    ),
    "imagenet": Known(("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"), "https://image-net.org", _train_alone),
    "pacs": Known(("PACS/kfold", "kfold", "PACS", "pacs", "pacs-part"), "https://domaingeneralization.github.io"),
    "domainnet": Known(("domainnet", "DomainNet"), "http://ai.bu.edu/M3SDA", _domains),
    "cifar10": Known(
        ("cifar10", "cifar10-test"), "https://www.cs.toronto.edu/~kriz/cifar.html", torchvision="CIFAR10", splits=_BOTH
    ),
    "cifar100": Known(
        ("cifar100",), "https://www.cs.toronto.edu/~kriz/cifar.html", torchvision="CIFAR100", splits=_BOTH
    ),
    "stl10": Known(
        ("stl10",),
        "https://cs.stanford.edu/~acoates/stl10",
        torchvision="STL10",
        splits=({"split": "train"}, {"split": "test"}),
    ),
    "aircraft": Known(
        ("fgvc-aircraft-2013b",),
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        _aircraft,
        "FGVCAircraft",
        ({"split": "trainval"},),
    ),
    "pets": Known(
        ("oxford-iiit-pet",), "https://www.robots.ox.ac.uk/~vgg/data/pets", _pets, "OxfordIIITPet", ({"split": "test"},)
    ),
}
FILES_OF_TORCHVISION = ("FGVCAircraft", "OxfordIIITPet")
"""Classes that lay down image files, read by the places above; the others lay down arrays."""


def find(name: str, root: Path, *, download: bool = False) -> Found:
    """The pictures of a data set by domain or split and class.

    Raises:
        InputError: it is not in ``root``; where to get it.
    """
    known = KNOWN[name]
    if download and known.torchvision in FILES_OF_TORCHVISION:
        _torchvision(known, root, download=True)
    for place in known.places:
        home = root / place
        if home.is_dir() or home.with_name(f"{home.name}.zip").is_file():
            found = {domain: classes for domain, classes in known.read(home).items() if classes}
            if found:
                return found
            raise InputError(f"{home} (folder or .zip): no images laid out as {name}'s are; get it at {known.source}")
    if known.torchvision and known.torchvision not in FILES_OF_TORCHVISION:
        return _torchvision(known, root, download=download)
    raise InputError(_missing(name, root))


def load(
    root: Path, *, name: str, download: bool = False, size: int, table: Path | None = None, seed: int = 0
) -> dict[str, ImageSet]:
    """Its classes in three splits, their images read when they are asked for.

    ``name`` is one of ``KNOWN``, or "folder": whatever lies in ``root`` itself.
    """
    found = folder.find(Path(root)) if name == "folder" else find(name, Path(root), download=download)
    parts = folder.split_classes(found, table=table, seed=seed)
    return {split: folder.image_set(part, size=size) for split, part in parts.items()}


def _missing(name: str, root: Path) -> str:
    places = ", ".join(KNOWN[name].places)
    return f"data set {name} is not in {root}: no {places} (folder or .zip); get it at {KNOWN[name].source}"


def _torchvision(known: Known, root: Path, *, download: bool) -> Found:
    from torchvision import datasets  # here, because it takes seconds to import

    found: Found = {"": {}}
    for split in known.splits:
        try:
            data = getattr(datasets, known.torchvision)(str(root), download=download, **split)
        except (OSError, RuntimeError) as error:
            name = next(name for name, each in KNOWN.items() if each is known)
            raise InputError(f"{_missing(name, root)}, or set data.download = true") from error
        if known.torchvision in FILES_OF_TORCHVISION:
            return found
        images = data.data.transpose(0, 2, 3, 1) if known.torchvision == "STL10" else data.data
        labels = np.asarray(data.labels if known.torchvision == "STL10" else data.targets)
        for label, of_class in enumerate(data.classes):
            found[""].setdefault(of_class, []).extend(np.ascontiguousarray(images[labels == label]))
    return found
