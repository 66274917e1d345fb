"""Small sets of images, and how an error of one line is told."""

import os
import shutil
from pathlib import Path

import torch

from ltdi.utils.seeding import generator

REAL_DATA = Path(os.environ.get("LTDI_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))


def by_class(image_set):
    """Class name to its images (n, channels, height, width)."""
    return dict(zip(image_set.names, image_set.images.split(image_set.counts), strict=True))


def dense(image_set):
    """Images (classes, images a class, channels, height, width) of a set that has equally many of each."""
    (n_images,) = set(image_set.counts)
    return image_set.images.unflatten(0, (-1, n_images))


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, f"{part!r} is not in {message!r}"


def pixel_accuracy(image_set, n_tasks=300):
    images = dense(image_set).float().div(255).flatten(2)
    draws = generator(0, "pixel accuracy")
    right = []
    for _ in range(n_tasks):
        task = images[torch.randperm(len(images), generator=draws)[:5]]
        task = task[:, torch.randperm(task.shape[1], generator=draws)]
        nearest = torch.cdist(task[:, 1:].flatten(0, 1), task[:, 0]).argmin(1)
        right.append(nearest.view(5, -1) == torch.arange(5)[:, None])
    return torch.stack(right).float().mean()


def zip_folder(folder):
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)
    return folder.with_suffix(".zip")
