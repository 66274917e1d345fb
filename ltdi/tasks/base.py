"""Context, Task, and what a source of tasks can do: what methods know of tasks, whatever these are about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ltdi.tasks.batch import Batch, map_batch
from ltdi.utils.nn import masked_mean

Self = TypeVar("Self", bound="TaskSource")
New = TypeVar("New", bound="NewTasks")


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may see of its tasks: for each of a task's N slots K rows of C numbers (B, N, K, C).

    A slot is a class, or the only one of a task that has none. Where slots have unequal numbers of rows, ``mask``
    (B, N, K) says which are there, the first ones of each slot; what the others hold has no meaning. ``examples`` is a
    batch for ``Learner.loss`` that a method may take gradient steps on, where there are any. ``known`` (B, N) is there
    where slots are classes that are learned from: their numbers, so that what is learned from a class is not asked
    of it. ``unlabelled`` (B, U, C) are rows of what is to be classified, their classes unknown, where a task has them:
    transductive methods alone look at them.
    """

    rows: Tensor
    mask: Tensor | None = None
    examples: Batch | None = None
    known: Tensor | None = None
    unlabelled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, tasks: slice | Tensor) -> "Context":
        return Context(
            self.rows[tasks],
            None if self.mask is None else self.mask[tasks],
            None if self.examples is None else map_batch(lambda value: value[tasks], self.examples),
            None if self.known is None else self.known[tasks],
            None if self.unlabelled is None else self.unlabelled[tasks],
        )

    @property
    def n_way(self) -> int:
        return self.rows.shape[1]

    @property
    def present(self) -> Tensor:
        """1 where there is a row, 0 where there is none (B, N, K)."""
        return torch.ones_like(self.rows[..., 0]) if self.mask is None else self.mask.to(self.rows)

    @property
    def means(self) -> Tensor:
        """Of each slot's rows (B, N, C)."""
        return masked_mean(self.rows, None if self.mask is None else self.present)


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of tasks: what is known of them, and what their weights are scored on."""

    context: Context
    query: Batch


class NewTasks(Protocol):
    """Where new tasks come from, without an end."""

    @property
    def parts(self: New) -> "Sequence[New]":
        """Sources whose tasks are scored apart, because new ones of theirs may be of different sizes; together they are
        this one."""
        ...

    def draw(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        """Names (n_tasks, …) of tasks that are in no table, of ``n_way`` slots or all there are, or of as many as the
        table's."""
        ...

    def new(
        self, names: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        """Tasks of these names, what is known and asked of them drawn; as much as the table's have where no number is
        given."""
        ...


class TaskSource(NewTasks, Protocol):
    """The tasks of one split: those of a table, by number, and new ones without an end.

    ``n_way`` and ``n_shot`` are the slots of a task of the table and the rows of a slot; ``most_shots`` how many rows a
    new task may have, and still be scored on others; ``n_views`` how many views of its data there are, 1 and the
    augmented copies; ``n_classes`` how many classes tasks are made of, 0 where they are made of none.
    """

    @property
    def n_way(self) -> int: ...
    @property
    def n_shot(self) -> int: ...
    @property
    def most_shots(self) -> int: ...
    @property
    def n_views(self) -> int: ...
    @property
    def n_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def batch(self, tasks: Tensor) -> Task:
        """Tasks of the table."""
        ...

    def context(self, tasks: Tensor) -> Context:
        """What is known of tasks of the table."""
        ...

    def fitted_on(self, tasks: Tensor, view: int = 0) -> Batch:
        """All that trained weights of tasks of the table are trained on; a later view is an augmented copy."""
        ...

    def by_class(self) -> Iterator[Tensor]:
        """The rows (M, C) of each of the classes that tasks are made of, without augmented copies."""
        ...

    def description(self, tasks: Tensor) -> str:
        """A name for all that weights of tasks of the table are trained on, and that new tasks are drawn by."""
        ...

    def take(self: Self, tasks: Tensor) -> Self:
        """The same source with these tasks alone in its table."""
        ...


TOGETHER = 64
"""How many tasks are worked on at a time where nothing else decides it."""


def batches(n_tasks: int, tasks_a_batch: int = TOGETHER) -> tuple[Tensor, ...]:
    """The numbers of all tasks, as many at a time as memory holds."""
    return torch.arange(n_tasks).split(tasks_a_batch)
