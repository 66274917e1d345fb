"""Task, Support, Query, TaskSource: which images, and so which features, a task has.

The classes of a task stand in label order everywhere: row ``n`` of a support or query belongs to label ``n``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ltdi.errors import InputError
from ltdi.seeding import generator


@dataclass(frozen=True, eq=False)
class Support:
    """What a method may see of its tasks: features (B, N, K, F), and images (B, N, K, channels, height, width) uint8
    where the source has them."""

    features: Tensor
    images: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, tasks: slice | Tensor) -> "Support":
        return Support(self.features[tasks], None if self.images is None else self.images[tasks])

    @property
    def class_means(self) -> Tensor:
        """(B, N, F)"""
        return self.features.mean(2)


@dataclass(frozen=True, eq=False)
class Query:
    """What a task is scored on: features (B, N, Q, F), and images (B, N, Q, channels, height, width) uint8."""

    features: Tensor
    images: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of tasks: the images of row n belong to label n in both sets."""

    support: Support
    query: Query


def joined(tasks: Sequence[Task]) -> Task:
    """Batches of tasks one after another."""

    def cat(sets: list) -> tuple[Tensor, Tensor | None]:
        images = None if sets[0].images is None else torch.cat([each.images for each in sets])
        return torch.cat([each.features for each in sets]), images

    return Task(Support(*cat([task.support for task in tasks])), Query(*cat([task.query for task in tasks])))


def labelled(features: Tensor) -> tuple[Tensor, Tensor]:
    """features (B, N, M, F), a class a row -> (B, N·M, F) and their labels (B, N·M)."""
    B, N, M, _ = features.shape
    labels = torch.arange(N, device=features.device).repeat_interleave(M).expand(B, -1)
    return features.flatten(1, 2), labels


class TaskSource:
    """The tasks of one split over the features of its images (C, I, F), by their rows in a table.

    ``classes`` (M, N), ``support`` (M, N, K) and ``query`` (M, N, Q) are indices into the first and second axis.
    Of a class's images the first ``n_images`` are the data set's, the rest augmented copies, view
    by view; None says that there are no copies. ``images`` (C, n_images, channels, height, width) uint8
    are there for methods that adapt more than a head; they need a source without copies.
    """

    def __init__(
        self, features: Tensor, classes: Tensor, support: Tensor, query: Tensor, n_images: int | None = None, images: Tensor | None = None
    ) -> None:
        self.features, self.classes, self.support, self.query, self.images = features, classes, support, query, images
        self.n_images = features.shape[1] if n_images is None else n_images

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, tasks: Tensor) -> Task:
        return Task(self.support_of(tasks), Query(*self._images_of(self.classes[tasks], self.query[tasks])))

    def redrawn(self, tasks: Tensor, stream: torch.Generator) -> Task:
        """The same classes with other images in support and query: what the task is does not hang on the draw."""
        return self.of_classes(self.classes[tasks.to(self.classes.device)], stream)

    def of_classes(self, classes: Tensor, stream: torch.Generator) -> Task:
        """Tasks of these classes (B, N), their images drawn."""
        K, Q = self.support.shape[-1], self.query.shape[-1]
        chosen = torch.rand(*classes.shape, self.features.shape[1], generator=stream).argsort(2).to(classes.device)
        return Task(Support(*self._images_of(classes, chosen[..., :K])), Query(*self._images_of(classes, chosen[..., K : K + Q])))

    def draw_classes(self, n_tasks: int, stream: torch.Generator) -> Tensor:
        """The classes (n_tasks, N) of tasks that are in no table."""
        n_classes, N = len(self.features), self.classes.shape[1]
        return torch.rand(n_tasks, n_classes, generator=stream).argsort(1)[:, :N].to(self.classes.device)

    def support_of(self, tasks: Tensor) -> Support:
        return Support(*self._images_of(self.classes[tasks], self.support[tasks]))

    @property
    def n_views(self) -> int:
        """The images themselves and their augmented copies."""
        return self.features.shape[1] // self.n_images

    def all_images(self, tasks: Tensor, view: int = 0) -> Tensor:
        """Every image of the tasks' classes (B, N, n_images, F), or the copy of each in a later view."""
        return self.features[:, view * self.n_images : (view + 1) * self.n_images][self.classes[tasks]]

    def rows(self, tasks: Tensor) -> "TaskSource":
        """Only these tasks."""
        return TaskSource(self.features, self.classes[tasks], self.support[tasks], self.query[tasks], self.n_images, self.images)

    def with_images(self, images: Tensor) -> "TaskSource":
        """The same tasks, with the images that the features are of (C, n_images, channels, height, width).

        Raises:
            InputError: the features hold augmented copies, whose images are not there.
        """
        if self.n_views > 1:
            raise InputError(f"tasks.views = {self.n_views - 1}: a method that works on images needs 0; change it, or method.name")
        return TaskSource(self.features, self.classes, self.support, self.query, self.n_images, images)

    def to(self, device: torch.device | str) -> "TaskSource":
        moved = (tensor.to(device) for tensor in (self.features, self.classes, self.support, self.query))
        return TaskSource(*moved, self.n_images, None if self.images is None else self.images.to(device))

    def to_table(self) -> pd.DataFrame:
        """One row a task; index lists flattened in the order of the labels."""
        columns = {"classes": self.classes, "support": self.support, "query": self.query}
        return pd.DataFrame({name: list(index.flatten(1).numpy()) for name, index in columns.items()})

    @classmethod
    def from_table(cls, features: Tensor, table: pd.DataFrame, n_images: int | None = None) -> "TaskSource":
        classes, support, query = (torch.from_numpy(np.stack(table[name])) for name in ("classes", "support", "query"))
        N = classes.shape[1]
        return cls(features, classes, support.unflatten(1, (N, -1)), query.unflatten(1, (N, -1)), n_images)

    @classmethod
    def sample(
        cls, features: Tensor, *, n_tasks: int, n_way: int, n_shot: int, n_query: int, seed: int, split: str, n_images: int | None = None
    ) -> "TaskSource":
        """Tasks of ``n_way`` different classes and ``n_shot + n_query`` different images of each.

        The first tasks stay the same when more are asked for.

        Raises:
            InputError: the split has too few classes, or its classes too few images.
        """
        n_classes, n_choices = features.shape[:2]
        if n_way > n_classes:
            raise InputError(f"tasks.n_way = {n_way} is more than the {n_classes} classes of {split}; lower it")
        if n_shot + n_query > n_choices:
            raise InputError(
                f"tasks.n_shot + tasks.n_query = {n_shot} + {n_query} is more than the {n_choices} images of a class; lower one"
            )
        classes = torch.rand(n_tasks, n_classes, generator=generator(seed, split, "classes")).argsort(1)[:, :n_way]
        images = torch.rand(n_tasks, n_way, n_choices, generator=generator(seed, split, "images")).argsort(2)
        return cls(features, classes, images[..., :n_shot], images[..., n_shot : n_shot + n_query], n_images)

    def _images_of(self, classes: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features, and the images themselves where there are any, of the ``chosen`` (B, N, M) ones of the classes (B, N)."""
        index = classes[..., None], chosen
        return self.features[index], None if self.images is None else self.images[index]
