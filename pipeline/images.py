"""The images of the stages that see any, and files as such images."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ltdi.datasets import DATASETS, ImageSet, augment, join
from ltdi.datasets.images import read_images
from pipeline.params import Augment, Data


def image_sets(data: Data) -> dict[str, ImageSet]:
    """The splits of the data set, the meta-val classes among the meta-training ones if ``train_on_val``."""
    size = {"size": data.mini_imagenet_size} if data.name == "mini_imagenet" else {}
    splits = DATASETS[data.name](data.root, download=data.download, **size)
    if data.train_on_val:
        splits["meta_train"] = join(splits["meta_train"], splits["meta_val"])
    return splits


def read_like(data_set: str, paths: Sequence[Path | zipfile.Path], size: int) -> torch.Tensor:
    """Image files as the data set's images are: uint8 (len(paths), channels, size, size)."""
    return as_files(data_set, read_images(paths, mode="RGB" if data_set == "mini_imagenet" else "L", size=size))


def as_files(data_set: str, images: torch.Tensor) -> torch.Tensor:
    """The data set's images as files show them, and the other way round: characters are ink 255 on 0, but dark on paper."""
    return images if data_set == "mini_imagenet" else 255 - images


def augmentation(params: Augment) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """images (M, channels, height, width) in [0, 1] and a generator -> their augmented copies."""
    ranges = params.model_dump()
    return lambda images, generator: augment(images, generator=generator, **ranges)
