"""Images by class, in three splits of classes that do not overlap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ltdi.datasets import glyphs, mini_imagenet, omniglot, photographs
from ltdi.datasets.image_files import SUFFIXES, Picture, find_images, read_images, transform
from ltdi.datasets.images import SPLITS, TRANSFORMS, ImageSet, augment, expand_classes, join
from ltdi.datasets.styles import each_of


@dataclass(frozen=True)
class DataSet:
    """``load(root, download=…)`` -> split: ImageSet, of images in PIL's ``mode``; ``on_paper`` where files show ink
    dark on white, and the data set has it 255 on 0."""

    load: Callable[..., dict[str, ImageSet]]
    mode: str
    on_paper: bool = False
    sized: bool = False
    """Whether it is loaded at a size of choice."""
    classes_split: bool = False
    """Whether its classes are split here, by a table or by chance."""

    def read(self, pictures: Sequence[Picture], size: int, first: int = 0) -> torch.Tensor:
        """Image files and images in memory, numbered from ``first`` on, as the data set's images are: uint8
        (len(pictures), channels, size, size)."""
        return self.as_files(read_images(pictures, mode=self.mode, size=size, first=first))

    def as_files(self, images: torch.Tensor) -> torch.Tensor:
        """The data set's images as files show them, and the other way round."""
        return 255 - images if self.on_paper else images


DATASETS: dict[str, DataSet] = {
    "glyphs": DataSet(glyphs.load, "L", on_paper=True),
    "omniglot": DataSet(omniglot.load, "L", on_paper=True),
    "mini_imagenet": DataSet(mini_imagenet.load, "RGB", sized=True),
}
DATASETS |= {
    name: DataSet(partial(photographs.load, name=name), "RGB", sized=True, classes_split=True)
    for name in ("folder", *photographs.KNOWN)
}

__all__ = [
    "DATASETS",
    "SPLITS",
    "SUFFIXES",
    "TRANSFORMS",
    "DataSet",
    "ImageSet",
    "Picture",
    "augment",
    "each_of",
    "expand_classes",
    "find_images",
    "join",
    "read_images",
    "transform",
]
