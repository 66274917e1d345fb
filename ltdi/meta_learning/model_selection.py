"""Model selection on new meta-val tasks: a candidate replaces the default only if it is significantly better."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ltdi.learners.base import Learner
from ltdi.tasks.base import Context, NewTasks
from ltdi.utils.metrics import mean_and_ci95

T = TypeVar("T")
"""Type of a candidate."""


@torch.no_grad()
def scores_on_new_tasks(
    learner: Learner,
    source: NewTasks,
    weights_of: Callable[[Context], Sequence[Tensor]],
    *,
    n_tasks: int,
    stream: torch.Generator,
    n_way: int | None = None,
    n_shot: int | None = None,
) -> Tensor:
    """Score every candidate on new tasks: (candidates, n_tasks).

    Tasks depend on ``stream`` alone, so that scores from two calls with equally seeded generators are paired.

    Args:
        learner: scores weights on a task's query set.
        source: draws new tasks. Of a source of several parts each contributes equally many tasks.
        weights_of: context -> weights (B, D) of each candidate.
        n_tasks: number of tasks, rounded up to a multiple of the parts.
        stream: generator that draws the tasks.
        n_way: classes of a task; None for the source's own.
        n_shot: support images per class; None for the source's own.
    """
    scores = []
    parts = source.parts
    for part in parts:
        for names in part.draw(-(-n_tasks // len(parts)), stream, n_way=n_way).split(64):
            task = part.new(names, stream, n_shot=n_shot)
            scores.append(torch.stack([learner.score(w, task.query) for w in weights_of(task.context)]))
    return torch.cat(scores, 1).double()


def significantly_better(scores: Tensor, baseline: Tensor) -> bool:
    """Test whether scores (M,) exceed the paired scores ``baseline`` (M,) by more than their 95 % interval."""
    gain, ci95 = mean_and_ci95(scores - baseline)
    return gain > ci95


def select_if_significant(candidates: Sequence[T], scores_of: Callable[[T], Tensor]) -> T:
    """Return the first candidate, the default, or the best other one if that is significantly better.

    Args:
        candidates: the default first.
        scores_of: candidate -> scores (M,), on the same tasks for all candidates.
    """
    if len(candidates) == 1:
        return candidates[0]
    first, *others = map(scores_of, candidates)
    best = max(range(len(others)), key=lambda i: others[i].mean().item())
    return candidates[1 + best] if significantly_better(others[best], first) else candidates[0]
