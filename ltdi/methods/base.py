"""The one interface: a way to obtain the weights of a head for a task nobody has trained on."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ltdi.heads import Head
from ltdi.metrics import accuracy
from ltdi.tasks import Support, TaskSource, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories


class Method(nn.Module):
    """A way to obtain weights for a new task. All that it learns is a parameter or a buffer: ``state_dict()`` is the whole artefact.

    It is handed support sets only, so that no query can leak into the weights. It knows no file, no
    params and no logger.
    """

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.start = start

    @property
    def head(self) -> Head:
        return self.start.head

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """What is learned without gradient steps: statistics of the training tasks, knobs chosen on meta-val."""

    def meta_train(self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int) -> Iterator[dict[str, float]]:
        """Train from ``training.step`` to ``training.steps``, yielding a log row a step. Default: learns nothing."""
        yield from ()

    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """Losses on meta-val tasks by name, for the curves. Default: none."""
        return {}

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        """Weights (B, D) for a batch of tasks. Changes nothing in the method; a task's weights do not depend on its neighbours."""
        raise NotImplementedError


def draw_tasks(n_tasks: int, tasks_a_batch: int, stream: torch.Generator) -> Tensor:
    """Different tasks of a batch, or all of them where there are fewer."""
    return torch.randperm(n_tasks, generator=stream)[:tasks_a_batch]


def draw_images(features: Tensor, n_images: int, stream: torch.Generator) -> Tensor:
    """``n_images`` of the images of each class, one choice for all tasks: (B, N, Q, F) -> (B, N, n_images, F)."""
    chosen = torch.randperm(features.shape[2], generator=stream)[:n_images]
    return features[:, :, chosen.to(features.device)]


def val_accuracies(head: Head, val: TaskSource, heads_of: Callable[[Support], Tensor]) -> Tensor:
    """The query accuracy of each meta-val task (M,) with the heads (M, D) that ``heads_of`` gives for the support sets."""
    task = val.batch(torch.arange(len(val)))
    features, labels = labelled(task.query.features)
    return accuracy(head(heads_of(task.support), features), labels)
