"""The one interface: a way to obtain weights for a task nobody has trained on."""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ltdi.heads import Head, task_losses
from ltdi.metrics import accuracy, mean_and_ci95
from ltdi.seeding import generator as named_generator
from ltdi.tasks import Query, Support, Task, TaskSource, joined, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories
from ltdi.weights import WeightSpace


class Method(nn.Module):
    """A way to obtain weights for a new task. All that it learns is a parameter or a buffer: ``state_dict()`` is the whole artefact.

    It is handed support sets only, so that no query can leak into the weights. It knows no file, no
    params and no logger.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    """What the constructor needs besides the start and the method's own knobs: length, n_condition, diffusion, denoiser, meta, body, n_tasks, n_classes."""

    from_images: ClassVar[bool] = False
    """Whether its tasks must have images: it makes more than a head on frozen features."""

    encodes: ClassVar[bool] = True
    """Whether it looks at what the support encoder says, where there is one."""

    adapts: bool = False
    """Whether generating weights means gradient steps on the support set."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.start = start

    @property
    def head(self) -> Head:
        return self.start.head

    @property
    def space(self) -> WeightSpace:
        """What the vectors that it generates are made of: a head's tensors, if it says no other."""
        return self.head.space

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """What is learned without gradient steps: statistics of the training tasks, knobs chosen on meta-val."""

    def meta_train(self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int) -> Iterator[dict[str, float]]:
        """Train from ``training.step`` to ``training.steps``, yielding a log row a step. Default: learns nothing."""
        yield from ()

    def finish(self, val: TaskSource, *, seed: int) -> None:
        """What is chosen on meta-val once meta-training has ended. Default: nothing."""

    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """Losses on meta-val tasks by name, for the curves. Default: none."""
        return {}

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        """Weights (B, D) for a batch of tasks. Changes nothing in the method; a task's weights do not depend on its neighbours."""
        raise NotImplementedError

    def logits(self, w: Tensor, query: Query) -> Tensor:
        """What the network with weights w (B, D) says of the queries, in the order of ``labelled``: (B, N·Q, N)."""
        return self.head(w, labelled(query.features)[0])


STRENGTHS = (1.0, 0.75, 0.5, 0.25)
STRENGTH_TASKS = 2000


class TrainedMethod(Method):
    """A generator of heads, trained jointly over tasks by gradient steps: a subclass writes ``loss``.

    Heads are points x = (w − centre) / scale: ``centre`` (B, D) is what the support set says of the start
    (``Start.centre``), ``scale`` (D,) the size of the trained heads' distance from it, by layer. How far generated heads
    go from the centre, ``strength``, is chosen on meta-val at the end: where what was learned does not carry over to
    other classes, it does no harm.

    ``meta``: tasks_a_batch; fresh, the share of a batch's tasks that are new ones, without a trajectory;
    redraw, whether a recorded task shows other images of its classes at every step; query_images a class;
    weight_loss and query_loss, the coefficients of the distance to the trained heads and of the query cross-entropy.
    """

    takes = ("meta",)

    def __init__(self, start: Start, *, meta: Mapping) -> None:
        super().__init__(start)
        self.meta = meta
        self.register_buffer("layer_scale", torch.ones(len(start.head.space.layers)))
        self.register_buffer("strength", torch.ones(()))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        centre = self.start.centre(train.support_of(torch.arange(len(train))))
        self.layer_scale.copy_(self.head.space.layer_scale(trajectories.points[:, 0].to(centre) - centre))

    @torch.no_grad()
    def finish(self, val: TaskSource, *, seed: int) -> None:
        """The strength of ``STRENGTHS`` with the best accuracy on new tasks of the split, or 0 if it is not above the centre's
        by more than the 95 % interval over these tasks: what is not shown to help is left out."""
        stream = named_generator(seed, "strength")
        scores = []
        for classes in val.draw_classes(STRENGTH_TASKS, stream).split(64):
            task = val.of_classes(classes, stream)
            inputs, labels = labelled(task.query.features)
            centre = self.start.centre(task.support)
            w = self.generate(task.support, generator=named_generator(seed, "noise"))
            scores.append(torch.stack([accuracy(self.head(torch.lerp(centre, w, each), inputs), labels) for each in (*STRENGTHS, 0.0)]))
        *those, none = torch.cat(scores, 1)
        best = max(range(len(STRENGTHS)), key=lambda j: those[j].double().mean().item())
        gain, ci95 = mean_and_ci95(those[best].double() - none.double())
        self.strength.fill_(STRENGTHS[best] if gain > ci95 else 0.0)

    @property
    def scale(self) -> Tensor:
        """(D,), kept by layer, so that a head of more or fewer classes has one too."""
        return self.head.space.spread(self.layer_scale)

    def to_x(self, w: Tensor, centre: Tensor) -> Tensor:
        return (w - centre) / self.scale

    def to_w(self, x: Tensor, centre: Tensor) -> Tensor:
        return centre + self.strength * self.scale * x

    def loss(self, task: Task, points: Tensor, stream: torch.Generator) -> Tensor:
        """The loss of each task (B,). The trajectories ``points`` (B', P, D) belong to the first B' ≤ B tasks."""
        raise NotImplementedError

    def meta_train(self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int) -> Iterator[dict[str, float]]:
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            batch = TaskBatch.draw(train, self.meta, stream)
            loss = self.loss(batch.task(train, self.meta, stream), batch.points(trajectories), stream).mean()
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.item()}

    def head_loss(self, w: Tensor, task: Task, points: Tensor) -> Tensor:
        """weight_loss × the mean squared distance of x to the trained head's, + query_loss × the query cross-entropy: (B,)."""
        loss = self.meta["query_loss"] * task_losses(self.head, w, *labelled(task.query.features))
        if self.meta["weight_loss"] > 0 and len(points):
            distance = ((w[: len(points)] - points[:, 0].to(w)) / self.scale).square().mean(-1)
            loss = loss + self.meta["weight_loss"] * pad(distance, len(w))
        return loss


class TaskBatch:
    """Which tasks a step is made of: recorded ones, by number, then new ones, by their classes (B'', N)."""

    def __init__(self, recorded: Tensor, fresh: Tensor) -> None:
        self.recorded, self.fresh = recorded, fresh

    @classmethod
    def draw(cls, train: TaskSource, meta: Mapping, stream: torch.Generator) -> "TaskBatch":
        n_fresh = round(meta["fresh"] * meta["tasks_a_batch"])
        return cls(draw_tasks(len(train), meta["tasks_a_batch"] - n_fresh, stream), train.draw_classes(n_fresh, stream))

    def task(self, train: TaskSource, meta: Mapping, stream: torch.Generator) -> Task:
        """The tasks with ``query_images`` queries a class; drawn anew at every call where ``meta`` says so."""
        parts = [train.redrawn(self.recorded, stream) if meta["redraw"] else train.batch(self.recorded)]
        if len(self.fresh):
            parts.append(train.of_classes(self.fresh, stream))
        task = joined(parts)
        return Task(task.support, draw_images(task.query, meta["query_images"], stream))

    def points(self, trajectories: Trajectories) -> Tensor:
        """The trajectories (B', P, D) of the recorded tasks."""
        return trajectories.points[self.recorded]


def draw_tasks(n_tasks: int, tasks_a_batch: int, stream: torch.Generator) -> Tensor:
    """Different tasks of a batch, or all of them where there are fewer."""
    return torch.randperm(n_tasks, generator=stream)[:tasks_a_batch]


def draw_images(query: Query, n_images: int, stream: torch.Generator) -> Query:
    """``n_images`` of the images of each class, one choice for all tasks."""
    chosen = torch.randperm(query.features.shape[2], generator=stream)[:n_images].to(query.features.device)
    return Query(query.features[:, :, chosen], None if query.images is None else query.images[:, :, chosen])


def pad(values: Tensor, n: int) -> Tensor:
    """values (B', …), then zeros up to (n, …)."""
    return torch.cat([values, values.new_zeros(n - len(values), *values.shape[1:])])


def query_accuracies(method: Method, source: TaskSource, weights_of: Callable[[Support], Tensor], *, tasks_a_batch: int = 64) -> Tensor:
    """The query accuracy of each task (M,) with the weights (B, D) that ``weights_of`` gives for the support sets."""
    scores = []
    with torch.no_grad():
        for tasks in torch.arange(len(source)).split(tasks_a_batch):
            task = source.batch(tasks)
            scores.append(accuracy(method.logits(weights_of(task.support), task.query), labelled(task.query.features)[1]))
    return torch.cat(scores)
