"""Tasks that tell classes from each other: how rows of features by class become contexts and tasks.

The classes of a task stand in label order everywhere: slot ``n`` belongs to label ``n``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ltdi.store import digest
from ltdi.tasks.base import Context, Task
from ltdi.tasks.batch import ABSENT
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import drawn_images, generator


def labelled(rows: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """rows (B, N, M, …), a class a row -> ``inputs`` (B, N·M, …) and their ``labels`` (B, N·M), ``ABSENT`` outside the
    mask (B, N, M)."""
    B, N, M = rows.shape[:3]
    labels = torch.arange(N, device=rows.device).repeat_interleave(M).expand(B, -1)
    if mask is not None:
        labels = torch.where(mask.flatten(1), labels, ABSENT)
    return {"inputs": rows.flatten(1, 2), "labels": labels}


def context_of(rows: Tensor, mask: Tensor | None = None, images: Tensor | None = None) -> Context:
    """What a few labelled rows (B, N, K, F), and where there are any the images (B, N, K, …) that they are of, say
    of tasks."""
    examples = labelled(rows, mask)
    if images is not None:
        examples["images"] = images.flatten(1, 2)
    return Context(rows, mask, examples)


@dataclass(frozen=True, eq=False)
class Classes:
    """Rows of features by class, of unequal numbers: those of class c are
    ``features[first[c] : first[c] + counts[c]]``.

    Behind these R rows stand as many of augmented copies, view by view: (V·R, F). ``images`` (R, channels, height,
    width) uint8 are there for methods that adapt more than a head; ``seen`` is what is done to features before a task
    has them.
    """

    features: Tensor
    counts: Tensor
    images: Tensor | None = None
    seen: FeatureMap | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def n_drawn(self) -> int:
        """How many of the classes, the first ones, tasks are drawn from."""
        return len(self)

    @cached_property
    def first(self) -> Tensor:
        return self.counts.cumsum(0) - self.counts

    @cached_property
    def n_rows(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def n_views(self) -> int:
        """The rows themselves and their augmented copies."""
        return len(self.features) // self.n_rows

    def rows_of(self, classes: Tensor, chosen: Tensor) -> Tensor:
        """Places in ``features`` of images ``chosen`` (B, N, K) of classes (B, N), 0 where −1 is; a class's first
        images are the data set's, those after them the copies, view by view."""
        first, counts, chosen = self.first[classes][..., None], self.counts[classes][..., None], chosen.clamp_min(0)
        return first + chosen if self.n_views == 1 else chosen // counts * self.n_rows + first + chosen % counts

    def mapped(self, rows: Tensor) -> Tensor:
        """Rows of features (…, F) as tasks have them."""
        return rows if self.seen is None else self.seen(rows)

    @cached_property
    def name(self) -> str:
        """Equal for equal features, seen in the same way."""
        return digest(self.features, self.counts, *(() if self.seen is None else self.seen.state()))

    def means(self) -> Tensor:
        """Of all of a class's rows but the copies (C, F)."""
        rows = self.mapped(self.features[: self.n_rows])
        if bool((self.counts == self.counts[0]).all()):
            return rows.unflatten(0, (len(self), -1)).mean(1)
        of_row = torch.arange(len(self)).repeat_interleave(self.counts).to(rows.device)
        sums = torch.zeros(len(self), rows.shape[1]).to(rows).index_add_(0, of_row, rows)
        return sums / self.counts[:, None].to(rows.device)

    def to(self, device: torch.device | str) -> "Classes":
        """With its rows on a device. Which are whose stays with the processor, which decides by it."""
        moved = {key: value.to(device) for key, value in vars(self).items() if hasattr(value, "to") and key != "counts"}
        return replace(self, **{field.name: moved[field.name] for field in fields(self) if field.name in moved})


class ClassTasks:
    """The tasks of one split: of ``classes`` (M, N) the images ``support`` (M, N, K) and ``query`` (M, N, Q), −1 where
    a class has none; numbers within the class, on the processor whatever device the features are on. A TaskSource."""

    def __init__(self, of: Classes, classes: Tensor, support: Tensor, query: Tensor) -> None:
        self.of, self.classes, self.support, self.query = of, classes, support, query
        self.n_views = of.n_views

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def n_way(self) -> int:
        return self.classes.shape[1]

    @property
    def n_shot(self) -> int:
        return self.support.shape[-1]

    @property
    def most_shots(self) -> int:
        return int(self.of.counts.max()) * self.n_views - 1

    @property
    def n_classes(self) -> int:
        return len(self.of)

    @property
    def parts(self) -> Sequence[Self]:
        return [self]

    def batch(self, tasks: Tensor) -> Task:
        return Task(self.context(tasks), self._query(self.classes[tasks], self.query[tasks]))

    def context(self, tasks: Tensor) -> Context:
        return context_of(*self._rows(self.classes[tasks], self.support[tasks]))

    def fitted_on(self, tasks: Tensor, view: int = 0) -> dict[str, Tensor]:
        """Every image of the tasks' classes, or the copy of each in a later view."""
        classes = self.classes[tasks]
        counts = self.of.counts[classes]
        number = torch.arange(int(counts.max()))
        chosen = torch.where(number < counts[..., None], number + view * counts[..., None], -1)
        rows, mask, _ = self._rows(classes, chosen)
        return labelled(rows, mask)

    def by_class(self) -> Iterator[Tensor]:
        """The rows (M, F) of each class, as tasks have them, without the copies."""
        for rows in self.of.features[: self.of.n_rows].split(self.of.counts.tolist()):
            yield self.of.mapped(rows)

    def draw(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        """The classes (n_tasks, N)."""
        order = torch.rand(n_tasks, self.of.n_drawn, generator=stream).argsort(1)
        return order[:, : n_way or self.n_way]

    def new(
        self, names: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        """Tasks of these classes (B, N), their images drawn."""
        K, Q = n_shot or self.n_shot, n_query or self.query.shape[-1]
        support, query = drawn_images(self.of.counts[names] * self.n_views, K, Q, stream)
        return Task(context_of(*self._rows(names, support)), self._query(names, query))

    def redrawn(self, n_tasks: int, stream: torch.Generator) -> Self:
        """The same source with as many new tasks in its table, of the sizes of the present ones."""
        classes = self.draw(n_tasks, stream)
        counts = self.of.counts[classes] * self.of.n_views
        return self._like(self.of, classes, *drawn_images(counts, self.n_shot, self.query.shape[-1], stream))

    def description(self, tasks: Tensor) -> str:
        return digest(tasks, self.of.name, self.classes[tasks], self.support[tasks])

    def _like(self, of: Classes, classes: Tensor, support: Tensor, query: Tensor) -> Self:
        return type(self)(of, classes, support, query)

    def take(self, tasks: Tensor) -> Self:
        return self._like(self.of, self.classes[tasks], self.support[tasks], self.query[tasks])

    def with_images(self, images: Tensor) -> Self:
        """The same tasks, with the images that the features are of (R, channels, height, width); refused as InputError
        where there are augmented copies, whose images are not there."""
        if self.n_views > 1:
            raise InputError(
                f"tasks.views = {self.n_views - 1}: a method that works on images needs 0; change it, or method.name"
            )
        return self._like(replace(self.of, images=images), self.classes, self.support, self.query)

    def through(self, seen: FeatureMap) -> Self:
        """The same tasks, whose features are seen through a map."""
        return self._like(replace(self.of, seen=seen), self.classes, self.support, self.query)

    def to(self, device: torch.device | str) -> Self:
        return self._like(self.of.to(device), self.classes, self.support, self.query)

    def to_table(self) -> pd.DataFrame:
        """One row a task; index lists flattened in the order of the labels."""
        columns = {"classes": self.classes, "support": self.support, "query": self.query}
        return pd.DataFrame({name: list(index.int().flatten(1).numpy()) for name, index in columns.items()})

    @classmethod
    def from_table(cls, of: Classes, table: pd.DataFrame) -> Self:
        columns = (table[key] for key in ("classes", "support", "query"))
        classes, support, query = (torch.from_numpy(np.stack(list(column))) for column in columns)
        N = classes.shape[1]
        support, query = (each.unflatten(1, (N, each.shape[1] // N)) for each in (support, query))
        return cls(of, classes, support, query)

    @classmethod
    def sample(cls, of: Classes, *, n_tasks: int, n_way: int, n_shot: int, n_query: int, seed: int, split: str) -> Self:
        """Tasks of ``n_way`` different classes and of each ``n_shot + n_query`` different images, or all there are.

        The first tasks stay the same when more are asked for.

        Raises:
            InputError: the split has too few classes, or no class has as many images.
        """
        if n_way > of.n_drawn:
            key = "tasks.train_n_way or tasks.n_way" if split == "meta_train" else "tasks.n_way"
            raise InputError(
                f"{key} = {n_way} is more than the {of.n_drawn} classes of {split}; lower it, or let tasks.transforms"
                " or tasks.val_transforms make further ones"
            )
        counts = of.counts * of.n_views
        if n_shot + n_query > int(counts.max()):
            raise InputError(
                f"tasks.n_shot + tasks.n_query = {n_shot} + {n_query} is more than the {int(counts.max())} images of a"
                " class; lower one"
            )
        names, images = generator(seed, split, "classes"), generator(seed, split, "images")
        parts = []
        for part in torch.arange(n_tasks).split(1000):  # what is drawn for all at once would not fit for many classes
            classes = torch.rand(len(part), of.n_drawn, generator=names).argsort(1)[:, :n_way]
            parts.append((classes, *drawn_images(counts[classes], n_shot, n_query, images)))
        return cls(of, *(torch.cat(each) for each in zip(*parts, strict=True)))

    def _rows(self, classes: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The ``chosen`` (B, N, K) rows of the classes (B, N), which of them are there, and their images."""
        device, there = self.of.features.device, chosen >= 0
        places = self.of.rows_of(classes, chosen).to(device)
        images = None if self.of.images is None else self.of.images[places]
        rows = self.of.mapped(self.of.features[places])
        return rows, None if bool(there.all()) else there.to(device), images

    def _query(self, classes: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        rows, mask, images = self._rows(classes, chosen)
        batch = labelled(rows, mask)
        return batch if images is None else batch | {"images": images.flatten(1, 2)}
