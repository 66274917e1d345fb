"""Transductive tasks: the images that are asked are known beforehand, their classes are not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltdi.tasks.base import Context, NewTasks, Task


@dataclass(frozen=True, eq=False)
class Transductive:
    """New tasks of a source whose queries, ``a_class`` of each class, are known without their labels, in an order that
    says nothing.

    With ``present`` the queries are of the first so many classes of a task alone: the others are asked for in vain.
    """

    source: NewTasks
    a_class: int
    present: int | None = None

    @property
    def parts(self) -> "Sequence[Transductive]":
        return [replace(self, source=part) for part in self.source.parts]

    def draw(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        return self.source.draw(n_tasks, stream, n_way=n_way)

    def new(
        self, names: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        task = self.source.new(names, stream, n_shot=n_shot, n_query=n_query or self.a_class)
        n_way = task.context.n_way
        asked = (self.present or n_way) * (task.query["labels"].shape[1] // n_way)
        query = {name: value[:, :asked] for name, value in task.query.items()}
        order = torch.randperm(asked, generator=stream)
        return Task(knowing(task.context, query["inputs"][:, order]), query)


def knowing(context: Context, rows: Tensor) -> Context:
    """The context with rows (B, U, C) of what is to be classified."""
    return replace(context, unlabelled=rows)
