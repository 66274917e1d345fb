"""Tasks within domains: the classes of a task are all of one data set, or of one of its parts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from ltdi.store import digest
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import pick


class DomainTasks(ClassTasks):
    """The tasks of one split, whose classes lie domain by domain: the first ``sizes[0]`` are the first's. A TaskSource.

    New tasks are of the domains ``among``, by number; those drawn together are of one domain, which is drawn in
    proportion to (its number of classes)^``power``: 0, every domain is as likely; 1, every class is.
    """

    def __init__(
        self,
        of: Classes,
        classes: Tensor,
        support: Tensor,
        query: Tensor,
        sizes: Sequence[int],
        among: Sequence[int] | None = None,
        power: float = 0.0,
    ) -> None:
        super().__init__(of, classes, support, query)
        self.sizes = tuple(sizes)
        self.among = tuple(range(len(sizes))) if among is None else tuple(among)
        self.power = power

    @property
    def parts(self) -> "list[DomainTasks]":
        """The same source for each domain alone."""
        own = (self.of, self.classes, self.support, self.query, self.sizes)
        return [DomainTasks(*own, among=[domain]) for domain in self.among]

    @property
    def most_shots(self) -> int:
        first = [0, *torch.tensor(self.sizes).cumsum(0).tolist()]
        counts = [self.of.counts[first[each] : first[each + 1]] for each in self.among]
        return int(torch.cat(counts).max()) * self.n_views - 1

    def draw(self, n_tasks: int, stream: torch.Generator, *, n_way: int | None = None) -> Tensor:
        """The classes (n_tasks, N) of one domain, all of them where it has fewer than ``n_way``."""
        domain = self.among[0]
        if len(self.among) > 1:
            sizes = torch.tensor([self.sizes[each] for each in self.among], dtype=torch.float64)
            domain = self.among[int(torch.multinomial(sizes**self.power, 1, generator=stream))]
        first, size = sum(self.sizes[:domain]), self.sizes[domain]
        order = pick(torch.full((n_tasks,), size), min(n_way or self.n_way, size), stream)
        return first + order

    def description(self, tasks: Tensor) -> str:
        return digest(super().description(tasks), self.sizes, self.among, self.power)

    def _like(self, of: Classes, classes: Tensor, support: Tensor, query: Tensor) -> Self:
        return type(self)(of, classes, support, query, self.sizes, self.among, self.power)

    @classmethod
    def sample_within(
        cls,
        of: Classes,
        sizes: Sequence[int],
        names: Sequence[str],
        *,
        n_tasks: int,
        n_way: int,
        n_shot: int,
        n_query: int,
        seed: int,
        split: str,
    ) -> "DomainTasks":
        """Tasks of the domains in turn, each as ``ClassTasks.sample`` draws them; ``names`` are the domains'.

        Raises:
            InputError: a domain has too few classes, or images.
        """
        ends = [0, *torch.tensor(sizes).cumsum(0).tolist()]
        each = -(-n_tasks // len(sizes))
        parts = []
        for name, (first, end) in zip(names, pairwise(ends), strict=True):
            if n_way > end - first:
                raise InputError(
                    f"data.domains: {name} has {end - first} classes, and tasks of {split} have {n_way}; lower"
                    " tasks.n_way or tasks.train_n_way, or take it out"
                )
            counts = of.counts[first:end]
            if n_shot + n_query > int(counts.max()):
                raise InputError(
                    f"data.domains: tasks.n_shot + tasks.n_query = {n_shot} + {n_query} is more than the"
                    f" {int(counts.max())} images of a class of {name}; lower one, or take it out"
                )
            sizes_of = {"n_tasks": each, "n_way": n_way, "n_shot": n_shot, "n_query": n_query}
            alone = Classes(of.features[: int(counts.sum())], counts)  # whose numbers of images are what is asked
            own = ClassTasks.sample(alone, **sizes_of, seed=seed, split=f"{split} {name}")
            parts.append((own.classes + first, own.support, own.query))
        # task 0 of every domain, then task 1 …
        turns = [torch.stack(column, 1).flatten(0, 1)[:n_tasks] for column in zip(*parts, strict=True)]
        classes, support, query = turns
        return cls(of, classes, support, query, sizes)
