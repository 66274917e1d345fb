"""Tasks whose classes are known by their names alone: a row of text each, and images only to be asked about."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ltdi.store import digest
from ltdi.tasks.base import Context, Task
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.utils.console import say_fewer
from ltdi.utils.seeding import pick


@dataclass(frozen=True, eq=False)
class NamedClasses(Classes):
    """Classes with a row of text each (C, E). ``learned_from`` are those that generators and starts learn from: a task
    of them is told which they are.

    ``rows`` (C, F) are what a trained classifier has for them, as features, where there is one. Then only the first
    classes may have images, and tasks are drawn from these.
    """

    texts: Tensor = torch.zeros(0, 0)
    learned_from: bool = False
    rows: Tensor | None = None

    @property
    def n_drawn(self) -> int:
        return int((self.counts > 0).sum())

    @cached_property
    def name(self) -> str:
        return digest(super().name, self.texts, self.learned_from, *(() if self.rows is None else (self.rows,)))

    def means(self) -> Tensor:
        """What is known of each class (C, F): its row of a trained classifier, or the mean of its images."""
        return super().means() if self.rows is None else self.mapped(self.rows)

    def context(self, classes: Tensor) -> Context:
        """What the names of classes (B, N) say of tasks: K = 1 row each."""
        here = classes.to(self.texts.device)
        return Context(self.texts[here][:, :, None], known=here if self.learned_from else None)


class NamedClassTasks(ClassTasks):
    """Tasks of described classes: no image is part of what is known, all of a task's are queries. A TaskSource."""

    of: NamedClasses

    @property
    def n_shot(self) -> int:
        return 1

    @property
    def most_shots(self) -> int:
        return 1

    def context(self, tasks: Tensor) -> Context:
        return self.of.context(self.classes[tasks])

    def new(
        self, names: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        """Tasks of these classes (B, N), their queries drawn; of each there is one row of text whatever ``n_shot``."""
        query = pick(self.of.counts[names] * self.n_views, n_query or self.query.shape[-1], stream)
        return Task(self.of.context(names), self._query(names, query))

    @classmethod
    def of_classes(cls, of: NamedClasses, *, n_tasks: int, n_way: int, n_query: int, seed: int, split: str) -> Self:
        """Tasks of ``n_way`` different classes, and ``n_query`` images of each, or all there are, to be asked."""
        say_fewer("tasks.n_query", n_query, most := int(of.counts.max()) * of.n_views, f"images of a class of {split}")
        n_query = min(n_query, most)
        sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_shot": 0, "n_query": n_query}
        return cls.sample(of, **sizes, seed=seed, split=split)


def rows_as_features(rows: Tensor, features: Tensor) -> Tensor:
    """The rows (C, F) of a trained classifier as what a class's images would have in the mean (C, F).

    The rows of a trained classifier and its class means point the same way from their centres (Papyan et al. 2020,
    "Prevalence of neural collapse"): the rows around their mean, as long as features (R, F) are around theirs, and
    moved there. Of the features no label is used.
    """
    mean, away = features.mean(0), rows - rows.mean(0)
    size = (features - mean).square().mean().sqrt() / away.square().mean().sqrt()
    return mean + size * away


def left_out(names: Mapping[str, str], of: Mapping[str, str]) -> list[str]:
    """The keys of ``names`` that are not classes of ``of``, by key or by name, however it is written."""
    taken = set(of) | {name.lower() for name in of.values()}
    return [key for key, name in names.items() if key not in taken and name.lower() not in taken]
