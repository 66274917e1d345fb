"""The images of the two stages that see any."""

from collections.abc import Callable

import torch

from ltdi.datasets import DATASETS, ImageSet, augment, join
from pipeline.params import Augment, Data


def image_sets(data: Data) -> dict[str, ImageSet]:
    """The splits of the data set, the meta-val classes among the meta-training ones if ``train_on_val``."""
    size = {"size": data.mini_imagenet_size} if data.name == "mini_imagenet" else {}
    splits = DATASETS[data.name](data.root, download=data.download, **size)
    if data.train_on_val:
        splits["meta_train"] = join(splits["meta_train"], splits["meta_val"])
    return splits


def augmentation(params: Augment) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """images (M, channels, height, width) in [0, 1] and a generator -> their augmented copies."""
    ranges = params.model_dump()
    return lambda images, generator: augment(images, generator=generator, **ranges)
