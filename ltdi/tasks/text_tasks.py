"""Tasks made of labelled texts, as a frozen encoder reads them: sub-tasks are subsets of a data set's examples.

A sub-task is a data set and an example of it, its anchor: made of the ``share`` of each class that is nearest to the
anchor by the encoder's embeddings, so that two sub-tasks of one data set are about different things.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ltdi.store import digest
from ltdi.tasks.base import Context, Task
from ltdi.tasks.text_examples import N_CLASSES, Examples
from ltdi.tasks.text_pairs import Pairs
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

COLUMNS = ("names", "support", "query", "fitted")


@dataclass(frozen=True)
class Reading:
    """How tasks were made: the frozen ``body`` that read the texts, its ``digest``, how many of its last ``layers`` are
    adapted; the ``share`` of a data set that makes a sub-task; how many ``views`` there are of what is trained on;
    whether queries are of the part that the data set keeps ``apart``."""

    body: str
    digest: str
    layers: int | None
    share: float
    views: int
    apart: bool


class TextTasks:
    """The tasks of one split: of ``names`` (T, 2), a data set and an anchor each, the rows ``support`` (T, N, K),
    ``query`` (T, N, Q) and ``fitted`` (T, V, N, M), −1 where there are no more; and ``pairs`` without a label, where a
    start is learned from some. A TaskSource."""

    n_way, n_classes = N_CLASSES, 0

    def __init__(
        self,
        of: Examples,
        reading: Reading,
        names: Tensor,
        support: Tensor,
        query: Tensor,
        fitted: Tensor,
        *,
        pairs: Pairs | None = None,
    ) -> None:
        self.of, self.reading, self.pairs = of, reading, pairs
        self.names, self.support, self.query, self.fitted = names, support, query, fitted

    @property
    def n_shot(self) -> int:
        return self.support.shape[-1]

    @property
    def n_views(self) -> int:
        return self.fitted.shape[1]

    @cached_property
    def most_shots(self) -> int:
        """By the smallest class of the smallest data set."""
        sizes = [len(self.of.rows(group, label, dev=False)) for group in self.of.groups for label in range(N_CLASSES)]
        return max(1, round(self.reading.share * min(sizes))) - 1

    @property
    def parts(self) -> "list[TextTasks]":
        return [self]

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, tasks: Tensor) -> Task:
        return Task(self.context(tasks), self.of.batch(self.query[tasks].flatten(1)))

    def context(self, tasks: Tensor) -> Context:
        return self._context(self.support[tasks])

    def fitted_on(self, tasks: Tensor, view: int = 0) -> dict[str, Tensor]:
        """A part of a task's examples; another in another view."""
        return self.of.batch(self.fitted[tasks, view].flatten(1))

    def draw(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        """Data sets, evenly, and of each an anchor (n_tasks, 2)."""
        groups = torch.tensor(self.of.groups)
        chosen = groups[torch.randint(0, len(groups), (n_tasks,), generator=stream)]
        spot, names = torch.rand(n_tasks, generator=stream), []
        for group, where in zip(chosen.tolist(), spot.tolist()):
            rows = self.of.of_train[group]
            names.append([group, int(rows[int(where * len(rows))])])
        return torch.tensor(names).view(-1, 2)

    def new(
        self, names: Tensor, stream: torch.Generator, *, n_shot: int | None = None, n_query: int | None = None
    ) -> Task:
        support, query = self.drawn(names, stream, n_shot or self.n_shot, n_query or self.query.shape[-1])
        return Task(self._context(support), self.of.batch(query.flatten(1)))

    def drawn(self, names: Tensor, stream: torch.Generator, *sizes: int) -> list[Tensor]:
        """Different rows of each class, so many in each part (B, N, size), −1 where there are no more. With ``apart``
        the second part is of the rows that are kept apart."""
        parts: list[list[Tensor]] = [[] for _ in sizes]
        for group, anchor in names.tolist():
            pools = self.of.near(group, anchor, self.reading.share, dev=False)
            kept = self.of.near(group, anchor, self.reading.share, dev=True) if self.reading.apart else pools
            own = [_shuffled(pool, stream) for pool in pools]
            first = 0
            for j, size in enumerate(sizes):
                if j == 1 and self.reading.apart:
                    parts[j].append(_padded([_shuffled(pool, stream) for pool in kept], 0, size))
                    continue
                parts[j].append(_padded(own, first, size))
                first += size
        return [torch.stack(part) for part in parts]

    def description(self, tasks: Tensor) -> str:
        return digest(tasks, self.of.name, self.names[tasks], self.support[tasks], self.fitted[tasks])

    def take(self, tasks: Tensor) -> "TextTasks":
        return self._with(*(getattr(self, name)[tasks] for name in COLUMNS))

    def to(self, device: torch.device | str) -> "TextTasks":
        rows = (getattr(self, name).to(device) for name in COLUMNS)
        return TextTasks(self.of.to(device), self.reading, *rows, pairs=self.pairs and self.pairs.to(device))

    def _with(self, names: Tensor, support: Tensor, query: Tensor, fitted: Tensor) -> "TextTasks":
        return TextTasks(self.of, self.reading, names, support, query, fitted, pairs=self.pairs)

    def _context(self, support: Tensor) -> Context:
        there = support >= 0
        # a GPU would have to be asked
        mask = None if there.device.type == "cpu" and bool(there.all()) else there
        return Context(self.of.embedding[support.clamp_min(0)], mask, self.of.batch(support.flatten(1)))

    def to_table(self) -> pd.DataFrame:
        """One row a task; lists of rows flattened."""
        return pd.DataFrame({name: list(getattr(self, name).int().flatten(1).numpy()) for name in COLUMNS})

    @classmethod
    def from_table(
        cls, of: Examples, reading: Reading, table: pd.DataFrame, *, pairs: Pairs | None = None
    ) -> "TextTasks":
        names, support, query, fitted = (torch.from_numpy(np.stack(list(table[name]))).long() for name in COLUMNS)
        support, query = (rows.unflatten(1, (N_CLASSES, -1)) for rows in (support, query))
        fitted = fitted.unflatten(1, (reading.views, N_CLASSES, -1))
        return cls(of, reading, names, support, query, fitted, pairs=pairs)

    @classmethod
    def sample(
        cls,
        of: Examples,
        reading: Reading,
        *,
        n_tasks: int,
        n_shot: int,
        n_query: int,
        n_fitted: int,
        seed: int,
        split: str,
    ) -> "TextTasks":
        """Sub-tasks with so many rows of each class that are known, asked, and trained on in each view. What is trained
        on may hold what is known and, if nothing is kept apart, what is asked.

        Raises:
            InputError: a class has too few examples.
        """
        nothing = torch.zeros(0, N_CLASSES, 1, dtype=torch.long)
        source = cls(of, reading, nothing[:, :, 0], nothing, nothing, nothing[:, None])
        most = source.most_shots + 1
        if n_shot + (0 if reading.apart else n_query) > most:
            raise InputError(
                f"tasks.n_shot + tasks.n_query = {n_shot} + {n_query} is more than the {most} examples of a class of a"
                f" sub-task of {split}; lower one, or raise texts.share"
            )
        stream, anchors = generator(seed, split, "examples"), generator(seed, split, "sub-tasks")
        names = source.draw(n_tasks, anchors)
        support, query = source.drawn(names, stream, n_shot, n_query)
        (fitted,) = source.drawn(names, stream, reading.views * n_fitted)
        parts = fitted.unflatten(2, (reading.views, n_fitted)).transpose(1, 2)
        return source._with(names, support, query, parts)


def _shuffled(rows: Tensor, stream: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=stream)]


def _padded(rows: list[Tensor], first: int, size: int) -> Tensor:
    """Of each class the rows from number ``first`` on (N, size), −1 where there are no more."""
    parts = [each[first : first + size] for each in rows]
    return torch.stack([torch.nn.functional.pad(part, (0, size - len(part)), value=-1) for part in parts])
