"""What is chosen on meta-val: a candidate is taken only where it is ahead beyond chance on new tasks."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ltdi.learners.base import Learner
from ltdi.tasks.base import Context, NewTasks
from ltdi.utils.metrics import mean_and_ci95

T = TypeVar("T")


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
    """The score of each task (candidates, n_tasks) with the weights of each candidate, a (B, D) each that
    ``weights_of`` gives.

    Tasks are drawn by ``stream`` alone: scores from two calls with streams of one name are paired. Of a source of
    several parts each gives as many, of as many slots as it has.
    """
    scores = []
    parts = source.parts
    for part in parts:
        for names in part.draw(-(-n_tasks // len(parts)), stream, n_way=n_way).split(64):
            task = part.new(names, stream, n_shot=n_shot)
            scores.append(torch.stack([learner.score(w, task.query) for w in weights_of(task.context)]))
    return torch.cat(scores, 1).double()


def is_ahead(scores: Tensor, of: Tensor) -> bool:
    """Whether scores (M,) are above others of the same tasks by more than the 95 % interval over these."""
    gain, ci95 = mean_and_ci95(scores - of)
    return gain > ci95


def first_or_ahead(candidates: Sequence[T], scores_of: Callable[[T], Tensor]) -> T:
    """The first candidate, or the best other where its scores (M,) on the same tasks are ahead of the first's."""
    if len(candidates) == 1:
        return candidates[0]
    first, *others = map(scores_of, candidates)
    best = max(range(len(others)), key=lambda i: others[i].mean().item())
    return candidates[1 + best] if is_ahead(others[best], first) else candidates[0]
