"""The one interface: a way to obtain weights for a task nobody has trained on."""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ltdi.heads import Head, task_losses
from ltdi.metrics import accuracy, mean_and_ci95
from ltdi.reptile import Phi, meta_step
from ltdi.seeding import generator as named_generator
from ltdi.tasks import Query, Support, Task, TaskSource, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories
from ltdi.weights import WeightSpace


class Method(nn.Module):
    """A way to obtain weights for a new task. All that it learns is a parameter or a buffer: ``state_dict()`` is the whole artefact.

    It is handed support sets only, so that no query can leak into the weights. It knows no file, no
    params and no logger.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    """What the constructor needs besides the start and the method's own knobs: length, diffusion, denoiser, meta, body, n_way, n_tasks, n_classes."""

    from_images: ClassVar[bool] = False
    """Whether its tasks must have images: it makes more than a head on frozen features."""

    adapts: bool = False
    """Whether generating weights means gradient steps on the support set."""

    one_size: bool = False
    """Whether it generates for as many classes as it was trained with, and for no other number."""

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

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[dict[str, float]]:
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
STRENGTH_SHOTS = (1, 2, 5)
# of 20 classes whatever the run's tasks have: where nearly every query of a few classes is right, they tell nothing
STRENGTH_WAYS, STRENGTH_TASKS = 20, 1000


class TrainedMethod(Method):
    """A generator of heads, trained jointly over tasks by gradient steps: a subclass writes ``loss`` and ``propose``.

    Heads are points x = (w − centre) / scale: ``centre`` (B, D) is what the support set says of the start
    (``Start.centre``), ``scale`` (D,) the size of the trained heads' distance from it, by layer. In x a class's bias is
    counted at the hidden units' mean activation, not at zero: these are never negative, and what a class's weights add
    to all images alike would have to be taken back, exactly, by a bias of a hundred times their size. How far generated heads
    go from the centre, ``strength``, is chosen on meta-val at the end, in tasks of ``STRENGTH_SHOTS`` images a class:
    where what was learned does not carry over to other classes, it does no harm.

    ``meta``: what ``TaskBatch`` names; query_loss, the coefficient of the query cross-entropy; weight_loss, that of the
    distance to the trained heads, which recorded tasks count in as well.
    """

    takes = ("meta",)

    records: ClassVar[bool] = True
    """Whether it learns from the recorded trajectories."""

    def __init__(self, start: Start, *, meta: Mapping) -> None:
        super().__init__(start)
        # what has no weight in the loss is not drawn
        recorded, new = self.records and meta["weight_loss"] > 0, meta["query_loss"] > 0
        self.meta = {**meta, "recorded_tasks": recorded * meta["recorded_tasks"], "new_tasks": new * meta["new_tasks"]}
        self.one_size = start.kind == "shared"
        self.register_buffer("layer_scale", torch.ones(len(start.head.space.layers)))
        self.register_buffer("activation", torch.zeros(start.head.hidden))
        self.register_buffer("strength", torch.ones(len(STRENGTH_SHOTS)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        support = train.support_of(torch.arange(len(train)))
        centre = self.start.centre(support)
        self.layer_scale.copy_(self.space.layer_scale(trajectories.points[:, 0].to(centre) - centre))
        self.activation.copy_(self.head.activations(centre, support.labelled[0]).mean((0, 1)))

    def propose(self, support: Support, *, generator: torch.Generator) -> Tensor:
        """Weights (B, D) at full strength."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self.tempered(self.propose(support, generator=generator), support)

    def tempered(self, w: Tensor, support: Support) -> Tensor:
        """Weights (…, B, D) drawn back to the centre by the strength for as many images a class as the task has in the mean."""
        shots = torch.tensor(STRENGTH_SHOTS, device=w.device).log()
        nearest = (support.present.sum(-1).mean(-1).log()[:, None] - shots).abs().argmin(-1)
        return torch.lerp(self.start.centre(support), w, self.strength[nearest][:, None])

    @torch.no_grad()
    def finish(self, val: TaskSource, *, seed: int) -> None:
        """For each of ``STRENGTH_SHOTS`` the strength of ``STRENGTHS`` with the best accuracy on new tasks of the split, or 0 if
        it is not above the centre's by more than the 95 % interval over these tasks: what is not shown to help is left out."""
        for j, n_shot in enumerate(STRENGTH_SHOTS):
            if n_shot >= val.n_images:
                self.strength[j:] = self.strength[j - 1]
                return
            stream, scores = named_generator(seed, "strength", n_shot), []
            for classes in val.draw_classes(
                STRENGTH_TASKS, stream, n_way=None if self.one_size else STRENGTH_WAYS
            ).split(64):
                task = val.of_classes(classes, stream, n_shot=n_shot)
                inputs, labels = labelled(task.query.features)
                centre = self.start.centre(task.support)
                w = self.propose(task.support, generator=named_generator(seed, "noise"))
                scores.append(
                    torch.stack(
                        [accuracy(self.head(torch.lerp(centre, w, each), inputs), labels) for each in (*STRENGTHS, 0.0)]
                    )
                )
            *those, none = torch.cat(scores, 1).double()
            best = max(range(len(STRENGTHS)), key=lambda i: those[i].mean().item())
            gain, ci95 = mean_and_ci95(those[best] - none)
            self.strength[j] = STRENGTHS[best] if gain > ci95 else 0.0

    def scale(self, dim: int) -> Tensor:
        """(``dim``,), kept by layer, so that a head of any number of classes has one."""
        return self.space.spread(self.layer_scale, dim)

    def to_x(self, w: Tensor, centre: Tensor) -> Tensor:
        return self._bias_moved(w - centre, self.activation) / self.scale(w.shape[-1])

    def to_w(self, x: Tensor, centre: Tensor) -> Tensor:
        return centre + self._bias_moved(self.scale(x.shape[-1]) * x, -self.activation)

    def _bias_moved(self, w: Tensor, by: Tensor) -> Tensor:
        """Heads (…, D) whose classes' biases are larger by their logits at the activations ``by`` (H,)."""
        tensors = self.space.unflatten(w)
        return self.space.flatten(
            tensors | {"output.bias": tensors["output.bias"] + tensors["output.weight"] @ by.to(w)}
        )

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """The loss of each task (B,): by its queries, and of a recorded one by its trajectory in ``points`` (B, P, D)."""
        raise NotImplementedError

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[dict[str, float]]:
        while training.step < training.steps:
            stream = step_stream(seed, training.step)
            parts = TaskBatch.draw(train, self.meta, stream).parts(train, trajectories, self.meta, stream)
            loss = sum(self.loss(task, points, stream).mean() for task, points in parts)
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.item()}

    def head_loss(self, w: Tensor, task: Task, points: Tensor | None) -> Tensor:
        """query_loss × the query cross-entropy, and of recorded tasks weight_loss × the mean squared distance of x to the
        trained head's: (B,)."""
        loss = self.meta["query_loss"] * task_losses(self.head, w, *labelled(task.query.features))
        if points is not None:
            loss = loss + self.meta["weight_loss"] * self.to_x(w, points[:, 0].to(w)).square().mean(-1)
        return loss


class ReptileTrained(TrainedMethod):
    """A generator trained by the two loops of REPTILE (Algorithm 2): its loss is a function of φ, its parameters, and of tensors.

    ``meta``: also inner_steps, inner_optimizer, inner_lr.
    """

    def draw(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Tensor]:
        """All that ``loss_of`` needs of an inner step, everything random included: tensors (B, …)."""
        raise NotImplementedError

    def loss_of(self, phi: Phi, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of each task (B,)."""
        raise NotImplementedError

    def step_loss(self, stream: torch.Generator) -> Callable[[Phi, Mapping[str, Tensor]], Tensor]:
        """``loss_of``, with what a step draws for all of its tasks at once."""
        return self.loss_of

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[dict[str, float]]:
        while training.step < training.steps:
            stream = step_stream(seed, training.step)
            tasks, loss_of = TaskBatch.draw(train, self.meta, stream), self.step_loss(stream)
            inner = [
                [self.draw(*part, stream) for part in tasks.parts(train, trajectories, self.meta, stream)]
                for _ in range(self.meta["inner_steps"])
            ]
            loss = meta_step(
                training,
                lambda phi, batch: loss_of(phi, batch).mean(),
                [list(batches) for batches in zip(*inner)],
                inner_optimizer=self.meta["inner_optimizer"],
                inner_lr=self.meta["inner_lr"],
            )
            yield {"step": training.step, "loss": loss}


class TaskBatch:
    """Which tasks a step of meta-training is made of: recorded ones, by number (B,), and new ones, by their classes (B, N).

    ``meta``: recorded_tasks and new_tasks, how many of them; n_way, the classes of a new task (all, where there are fewer);
    min_shot and max_shot, between which the number of its images a class is drawn at every step; query_images a class.
    """

    def __init__(self, recorded: Tensor, classes: Tensor, n_shot: int) -> None:
        self.recorded, self.classes, self.n_shot = recorded, classes, n_shot

    @classmethod
    def draw(cls, train: TaskSource, meta: Mapping, stream: torch.Generator) -> "TaskBatch":
        recorded = torch.randperm(len(train), generator=stream)[: meta["recorded_tasks"]]
        # evenly in its logarithm: the fewer images, the more there is to learn
        n_shot = int(
            meta["min_shot"] * ((meta["max_shot"] + 1) / meta["min_shot"]) ** torch.rand((), generator=stream).item()
        )
        return cls(recorded, train.draw_classes(meta["new_tasks"], stream, n_way=meta["n_way"]), n_shot)

    def parts(
        self, train: TaskSource, trajectories: Trajectories, meta: Mapping, stream: torch.Generator
    ) -> list[tuple[Task, Tensor | None]]:
        """The recorded tasks with their trajectories (B, P, D), and the new ones, whose images are drawn anew at every call."""
        parts = [(train.batch(self.recorded), trajectories.points[self.recorded])] if len(self.recorded) else []
        if len(self.classes):
            parts.append(
                (train.of_classes(self.classes, stream, n_shot=self.n_shot, n_query=meta["query_images"]), None)
            )
        return parts


def step_stream(seed: int, step: int) -> torch.Generator:
    """The random numbers of a step of meta-training, so that a resumed one goes on with the same; dropout draws them globally."""
    stream = named_generator(seed, "meta", step)
    torch.manual_seed(stream.initial_seed())
    return stream


def query_accuracies(
    method: Method, source: TaskSource, weights_of: Callable[[Support], Tensor], *, tasks_a_batch: int = 64
) -> Tensor:
    """The query accuracy of each task (M,) with the weights (B, D) that ``weights_of`` gives for the support sets."""
    scores = []
    with torch.no_grad():
        for tasks in torch.arange(len(source)).split(tasks_a_batch):
            task = source.batch(tasks)
            scores.append(
                accuracy(method.logits(weights_of(task.support), task.query), labelled(task.query.features)[1])
            )
    return torch.cat(scores)
