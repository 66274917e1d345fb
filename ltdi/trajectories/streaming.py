"""Trajectories that are collected while meta-training goes on, so that it does not run out of tasks."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.tasks.base import TaskSource
from ltdi.tasks.class_tasks import ClassTasks
from ltdi.trajectories.collection import Trajectories, collect
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

CHUNK = 500
"""Tasks that are collected together."""


class StreamedTrajectories(Trajectories):
    """A pool of ``pool`` recorded tasks in chunks, the oldest of which is replaced by a new one at even intervals.

    A step of meta-training takes its ``tasks_a_step`` tasks from one chunk, drawn evenly; intervals are so long that a
    trajectory is used ``uses`` times in the mean. Chunk j depends on the seed and j alone: a resumed training collects
    those that are in the pool again, and goes on with the same. The next chunk is collected in a second thread.

    Args:
        settings: keyword arguments of ``collect`` but for the seed.
    """

    def __init__(
        self,
        stored: Trajectories,
        initialization: Initialization,
        settings: Mapping[str, Any],
        *,
        pool: int,
        uses_per_trajectory: int,
        tasks_a_step: int,
        seed: int,
    ) -> None:
        super().__init__(stored.parts, stored.part, stored.row)
        self.initialization, self.settings, self.seed = initialization, dict(settings), seed
        self.chunk = min(pool, CHUNK)
        self.n_chunks = max(1, pool // self.chunk)
        self.interval = max(1, uses_per_trajectory * self.chunk // max(1, tasks_a_step))
        self.chunks: dict[int, Future[tuple[ClassTasks, Trajectories]]] = {}
        self.collector = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def at(self, step: int, train: TaskSource) -> tuple[TaskSource, Trajectories]:
        """The tasks and trajectories that a step of meta-training draws from."""
        first = step // self.interval
        live = range(first, first + self.n_chunks)
        for j in [each for each in self.chunks if each < first]:
            del self.chunks[j]
        for j in (*live, live.stop):  # the one that comes next as well
            if j not in self.chunks:
                self.chunks[j] = self.collector.submit(self.collected, j, train)
        place = int(torch.randint(self.n_chunks, (), generator=generator(self.seed, "streamed chunk", step)))
        return self.chunks[live[place]].result()

    def collected(self, j: int, train: TaskSource) -> tuple[ClassTasks, Trajectories]:
        """Draw and train the tasks of chunk ``j``, of the classes of ``train``; those that end in NaN are left out.

        Raises:
            InputError: the tasks are not made of classes, or all end in NaN.
        """
        if not isinstance(train, ClassTasks):
            raise InputError("meta.streamed_tasks draws new tasks of classes, which this scenario does not have; set 0")
        source = train.redrawn(self.chunk, generator(self.seed, "streamed tasks", j))
        seed = generator(self.seed, "streamed trajectories", j).initial_seed()
        recorded = collect(self.initialization, source, torch.arange(self.chunk), seed=seed, **self.settings)
        kept = recorded.finite.nonzero()[:, 0].cpu()
        if not len(kept):
            raise InputError("every streamed trajectory holds NaN or infinity; lower trajectories.lr")
        points: Tensor = recorded.points[kept]
        return source.take(kept), Trajectories.of(points)
