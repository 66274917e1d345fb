"""Images by class, in three splits of classes that do not overlap."""

from collections.abc import Callable

from ltdi.datasets import glyphs, mini_imagenet, omniglot
from ltdi.datasets.images import SPLITS, TRANSFORMS, ImageSet, augment, expand_classes, join, to_float, transform

# name -> load(root, *, download=False) -> {split: ImageSet}
DATASETS: dict[str, Callable[..., dict[str, ImageSet]]] = {
    "glyphs": glyphs.load,
    "omniglot": omniglot.load,
    "mini_imagenet": mini_imagenet.load,
}

__all__ = [
    "DATASETS",
    "SPLITS",
    "TRANSFORMS",
    "ImageSet",
    "augment",
    "expand_classes",
    "join",
    "to_float",
    "transform",
]
