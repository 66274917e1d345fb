"""Control: the trained head, cut to as many classes, of the training task whose condition, the class means in label order, is nearest."""

import torch
from torch import Tensor

from ltdi.methods.base import Method
from ltdi.tasks import Support, TaskSource
from ltdi.trajectories import Start, Trajectories


class NearestHead(Method):
    """``n_tasks`` training tasks are kept."""

    takes = ("n_tasks", "n_way")
    one_size = True

    def __init__(self, start: Start, *, n_tasks: int, n_way: int) -> None:
        super().__init__(start)
        self.register_buffer("conditions", torch.zeros(n_tasks, n_way * self.head.n_features))
        self.register_buffer("heads", torch.zeros(n_tasks, self.space.dim(n_way)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        kept = torch.arange(len(self.heads))
        n_way = val.classes.shape[1]
        self.conditions.copy_(train.support_of(kept).class_means[:, :n_way].flatten(1))
        self.heads.copy_(self.space.some_slots(trajectories.points[: len(self.heads), 0], n_way))

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self.heads[torch.cdist(support.class_means.flatten(1), self.conditions).argmin(1)]
