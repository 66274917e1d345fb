"""Task, Support, Query, TaskSource: which images, and so which features, a task has.

The classes of a task stand in label order everywhere: row ``n`` of a support or query belongs to label ``n``.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ltdi.errors import InputError
from ltdi.nn import masked_mean
from ltdi.seeding import generator

ABSENT = -100
"""The label of an image that is not there, where classes have unequal numbers; cross-entropy leaves it out."""


@dataclass(frozen=True, eq=False)
class Support:
    """What a method may see of its tasks: features (B, N, K, F), and where the source has them images
    (B, N, K, channels, height, width) uint8. Where classes have unequal numbers of images, ``mask`` (B, N, K) says
    which are there, the first ones of each class; what the others hold has no meaning."""

    features: Tensor
    images: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, tasks: slice | Tensor) -> "Support":
        return Support(*(None if each is None else each[tasks] for each in (self.features, self.images, self.mask)))

    @property
    def n_way(self) -> int:
        return self.features.shape[1]

    @property
    def present(self) -> Tensor:
        """1 where there is an image, 0 where there is none (B, N, K)."""
        return torch.ones_like(self.features[..., 0]) if self.mask is None else self.mask.to(self.features)

    @property
    def class_means(self) -> Tensor:
        """(B, N, F)"""
        return masked_mean(self.features, self.present)

    @property
    def labelled(self) -> tuple[Tensor, Tensor]:
        """Features (B, N·K, F) and their labels (B, N·K), ``ABSENT`` where there is no image."""
        return labelled(self.features, self.mask)


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


def labelled(features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """features (B, N, M, F), a class a row -> (B, N·M, F) and their labels (B, N·M), ``ABSENT`` outside the mask (B, N, M)."""
    B, N, M, _ = features.shape
    labels = torch.arange(N, device=features.device).repeat_interleave(M).expand(B, -1)
    if mask is not None:
        labels = torch.where(mask.flatten(1), labels, ABSENT)
    return features.flatten(1, 2), labels


class TaskSource:
    """The tasks of one split over the features of its images (C, I, F), by their rows in a table.

    ``classes`` (M, N), ``support`` (M, N, K) and ``query`` (M, N, Q) are indices into the first and second axis.
    Of a class's images the first ``n_images`` are the data set's, the rest augmented copies, view
    by view; None says that there are no copies. ``images`` (C, n_images, channels, height, width) uint8
    are there for methods that adapt more than a head; they need a source without copies.
    """

    def __init__(
        self,
        features: Tensor,
        classes: Tensor,
        support: Tensor,
        query: Tensor,
        n_images: int | None = None,
        images: Tensor | None = None,
    ) -> None:
        self.features, self.classes, self.support, self.query, self.images = features, classes, support, query, images
        self.n_images = features.shape[1] if n_images is None else n_images

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, tasks: Tensor) -> Task:
        return Task(self.support_of(tasks), self._query(self.classes[tasks], self.query[tasks]))

    def of_classes(
        self, classes: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        """Tasks of these classes (B, N), their images drawn; as many as the table's tasks have where no number is given."""
        K, Q = n_shot or self.support.shape[-1], n_query or self.query.shape[-1]
        chosen = torch.rand(*classes.shape, self.features.shape[1], generator=stream).argsort(2).to(classes.device)
        return Task(self._support(classes, chosen[..., :K]), self._query(classes, chosen[..., K : K + Q]))

    def draw_classes(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        """The classes (n_tasks, N) of tasks that are in no table: ``n_way`` or all there are, or as many as the table's tasks have."""
        order = torch.rand(n_tasks, len(self.features), generator=stream).argsort(1)
        return order[:, : n_way or self.classes.shape[1]].to(self.classes.device)

    def support_of(self, tasks: Tensor) -> Support:
        return self._support(self.classes[tasks], self.support[tasks])

    @property
    def n_views(self) -> int:
        """The images themselves and their augmented copies."""
        return self.features.shape[1] // self.n_images

    def all_images(self, tasks: Tensor, view: int = 0) -> Tensor:
        """Every image of the tasks' classes (B, N, n_images, F), or the copy of each in a later view."""
        return self.features[:, view * self.n_images : (view + 1) * self.n_images][self.classes[tasks]]

    def rows(self, tasks: Tensor) -> "TaskSource":
        """Only these tasks."""
        return TaskSource(
            self.features, self.classes[tasks], self.support[tasks], self.query[tasks], self.n_images, self.images
        )

    def with_images(self, images: Tensor) -> "TaskSource":
        """The same tasks, with the images that the features are of (C, n_images, channels, height, width).

        Raises:
            InputError: the features hold augmented copies, whose images are not there.
        """
        if self.n_views > 1:
            raise InputError(
                f"tasks.views = {self.n_views - 1}: a method that works on images needs 0; change it, or method.name"
            )
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
        cls,
        features: Tensor,
        *,
        n_tasks: int,
        n_way: int,
        n_shot: int,
        n_query: int,
        seed: int,
        split: str,
        n_images: int | None = None,
    ) -> "TaskSource":
        """Tasks of ``n_way`` different classes and ``n_shot + n_query`` different images of each.

        The first tasks stay the same when more are asked for.

        Raises:
            InputError: the split has too few classes, or its classes too few images.
        """
        n_classes, n_choices = features.shape[:2]
        if n_way > n_classes:
            raise InputError(
                f"tasks.n_way = {n_way} is more than the {n_classes} classes of {split}; lower it, or let tasks.transforms or tasks.val_transforms make further ones"
            )
        if n_shot + n_query > n_choices:
            raise InputError(
                f"tasks.n_shot + tasks.n_query = {n_shot} + {n_query} is more than the {n_choices} images of a class; lower one"
            )
        classes = torch.rand(n_tasks, n_classes, generator=generator(seed, split, "classes")).argsort(1)[:, :n_way]
        images = torch.rand(n_tasks, n_way, n_choices, generator=generator(seed, split, "images")).argsort(2)
        return cls(features, classes, images[..., :n_shot], images[..., n_shot : n_shot + n_query], n_images)

    def _support(self, classes: Tensor, chosen: Tensor) -> Support:
        """The ``chosen`` (B, N, K) images of the classes (B, N)."""
        return Support(
            *(None if each is None else each[classes[..., None], chosen] for each in (self.features, self.images))
        )

    def _query(self, classes: Tensor, chosen: Tensor) -> Query:
        return Query(
            *(None if each is None else each[classes[..., None], chosen] for each in (self.features, self.images))
        )
