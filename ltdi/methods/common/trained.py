"""Generators trained jointly over tasks by gradient steps: what they share, a step's tasks, the loops, the update
scale."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.meta_learning.model_selection import scores_on_new_tasks
from ltdi.meta_learning.reptile import Phi, meta_step
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Meta, Setup
from ltdi.tasks.base import Context, Task, TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.nn import Standardise
from ltdi.utils.seeding import generator as named_generator
from ltdi.utils.seeding import seed_globally
from ltdi.utils.trainer import Row, Training

UPDATE_SCALES = (1.0, 0.75, 0.5, 0.25)
SCALE_SHOTS = (1, 2, 5)
# of 20 classes whatever the run's tasks have: where nearly every query of a few classes is right, they tell nothing
SCALE_WAYS = 20


class TrainedMethod(Method):
    """A generator, trained jointly over tasks by gradient steps: a subclass writes ``loss`` and ``propose``.

    Weights are points x = (w − centre) / scale: ``centre`` (B, D) is what the context says of the start
    (``Start.centre``), ``scale`` (D,) the size of the trained weights' distance from it, by layer. In x biases are
    counted where the learner says (``Learner.rebased``). How far generated weights go from the centre, ``update
    scale``, is chosen on meta-val at the end, in tasks of ``STRENGTH_SHOTS`` rows a slot: where what was learned does
    not carry over to other classes, it does no harm.
    """

    uses_trajectories: ClassVar[bool] = True
    """Whether it learns from the recorded trajectories."""

    layer_scale: Tensor
    reference: Tensor
    update_scale: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        meta = setup.meta
        # what has no weight in the loss is not drawn
        recorded, new = self.uses_trajectories and meta.weight_loss > 0, meta.query_loss > 0
        self.meta = replace(meta, recorded_tasks=recorded * meta.recorded_tasks, new_tasks=new * meta.new_tasks)
        self.fixed_n_way = initialization.fixed_n_way
        slot = self.space.slot_layer if initialization.shown else None
        self.conditioning_width = self.learner.n_numbers + (self.space.numbers[slot] if slot else 0)
        self.register_buffer("layer_scale", torch.ones(len(self.space.layers)))
        self.register_buffer("reference", torch.zeros(self.learner.n_reference))
        self.register_buffer("update_scale", torch.ones(len(SCALE_SHOTS)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        self.standardise(train)
        squares = torch.zeros(len(self.layer_scale), dtype=torch.float64)
        reference, n = torch.zeros_like(self.reference), 0
        for tasks in batches(len(train)):
            context = train.context(tasks)
            centre = self.initialization.centre(context)
            away = self.space.tokens((trajectories.trained(tasks).to(centre) - centre).double()).values()
            squares += len(tasks) * torch.stack([part.square().mean() for part in away]).cpu()
            if context.examples is not None:
                reference += len(tasks) * self.learner.reference(centre, context.examples)
            n += len(tasks)
        scale = (squares / n).sqrt()
        self.layer_scale.copy_(torch.where(scale > 0, scale, 1.0))
        self.reference.copy_(reference / n)

    def standardise(self, train: TaskSource) -> None:
        """Fit every ``Standardise`` of the networks to what it reads, by the tasks of the table: the rows of contexts,
        or what ``told`` makes of them."""
        layers = [module for module in self.modules() if isinstance(module, Standardise)]
        if not layers:
            return
        seen: dict[int, list[Tensor]] = {}
        for tasks in batches(len(train)):
            context = train.context(tasks)
            rows = {context.rows.shape[-1]: context.rows[context.present > 0]}
            if self.conditioning_width != context.rows.shape[-1]:
                rows[self.conditioning_width] = self.conditioning(context, self.initialization.centre(context)).flatten(
                    0, 1
                )
            for n_numbers, values in rows.items():
                values = values.double()
                sums = torch.stack([torch.ones_like(values[0]) * len(values), values.sum(0), values.square().sum(0)])
                seen.setdefault(n_numbers, []).append(sums)
        for layer in layers:
            n, total, squares = torch.stack(seen[len(layer.mean)]).sum(0)
            layer.fit(total / n, (squares / n - (total / n).square()).clamp_min(0).sqrt())

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Weights (B, D) at full update scale; ``centre`` (B, D) is what the start says of the context."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        centre = self.initialization.centre(context)
        return self.apply_update_scale(self.propose(context, centre, generator=generator), centre, context)

    def apply_update_scale(self, w: Tensor, centre: Tensor, context: Context) -> Tensor:
        """Weights (…, B, D) drawn back to the centre by the update scale for as many rows a slot as the task has in the
        mean."""
        if context.mask is None:
            distances = [abs(math.log(context.rows.shape[2] / shots)) for shots in SCALE_SHOTS]
            update_scale = self.update_scale[distances.index(min(distances))]
        else:
            shots = torch.tensor(SCALE_SHOTS, device=w.device).log()
            nearest = (context.present.sum(-1).mean(-1).log()[:, None] - shots).abs().argmin(-1)
            update_scale = self.update_scale[nearest][:, None]
        return torch.lerp(centre, w, update_scale)

    @torch.no_grad()
    def finish(self, val: TaskSource, *, seed: int) -> None:
        """For each of ``STRENGTH_SHOTS`` the update scale of ``STRENGTHS`` with the best score on new tasks of the
        split, or 0 if it is not above the centre's by more than the 95 % interval over these tasks: what is not shown
        to help is left out."""

        def at_every_scale(context: Context) -> list[Tensor]:
            centre = self.initialization.centre(context)
            w = self.propose(context, centre, generator=named_generator(seed, "noise"))
            return [torch.lerp(centre, w, update_scale) for update_scale in (*UPDATE_SCALES, 0.0)]

        for j, n_shot in enumerate(SCALE_SHOTS):
            if n_shot > val.most_shots:
                self.update_scale[j:] = self.update_scale[j - 1]
                return
            *those, none = scores_on_new_tasks(
                self.learner,
                val,
                at_every_scale,
                n_tasks=self.learner.selection_tasks,
                stream=named_generator(seed, "update_scale", n_shot),
                n_way=None if self.fixed_n_way else SCALE_WAYS,
                n_shot=n_shot,
            )
            best = max(range(len(UPDATE_SCALES)), key=lambda i: those[i].mean().item())
            gain, ci95 = mean_and_ci95(those[best] - none)
            self.update_scale[j] = UPDATE_SCALES[best] if gain > ci95 else 0.0

    def copy_selection(self, other: Method) -> None:
        assert isinstance(other, TrainedMethod)
        self.update_scale.copy_(other.update_scale)

    def conditioning(self, context: Context, centre: Tensor) -> Tensor:
        """What is known of each slot as one row (B, N, n_told): the mean of its rows and, where the start holds more
        than these (``Start.shown``), where its weights start (B, D), of unit size: denoisers are shown no more."""
        rows = context.means
        if self.conditioning_width == rows.shape[-1]:
            return rows
        own = self.space.tokens(unit_rms(centre))[str(self.space.slot_layer)]
        return torch.cat([rows, own], -1)

    def scale(self, dim: int) -> Tensor:
        """(``dim``,), kept by layer, so that weights for any number of classes have one."""
        return self.space.spread(self.layer_scale, dim)

    def coordinate_weights(self, dim: int) -> Tensor:
        """What each number of x counts in the weight loss (``dim``,), 1 in the mean: every layer as much as another."""
        sizes = [neurons * numbers for neurons, numbers in self.space.sizes(dim)]
        equal = self.layer_scale.new_tensor([dim / len(sizes) / size for size in sizes])
        return self.space.spread(equal, dim)

    def to_x(self, w: Tensor, centre: Tensor) -> Tensor:
        return self.learner.rebased(w - centre, self.reference) / self.scale(w.shape[-1])

    def to_w(self, x: Tensor, centre: Tensor) -> Tensor:
        return centre + self.learner.rebased(self.scale(x.shape[-1]) * x, -self.reference)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """The loss of each task (B,): by its queries, and of a recorded one by its trajectory in ``points`` (B, P,
        D)."""
        raise NotImplementedError

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        while training.step < training.steps:
            stream = step_generator(seed, training.step)
            source, recorded = trajectories.at(training.step, train)
            parts = MetaBatch.draw(source, self.meta, stream).parts(source, recorded, self.meta, stream)
            loss = torch.stack([self.loss(task, points, stream).mean() for task, points in parts]).sum()
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.detach()}

    def weights_loss(self, w: Tensor, task: Task, points: Tensor | None) -> Tensor:
        """query_loss × the loss on the queries, and of recorded tasks weight_loss × the mean squared distance of x to
        the trained weights', by ``shares``: (B,)."""
        loss = self.meta.query_loss * self.learner.loss(w, task.query)
        if points is not None:
            squares = self.coordinate_weights(w.shape[-1]) * self.to_x(w, points[:, 0].to(w)).square()
            loss = loss + self.meta.weight_loss * squares.mean(-1)
        return loss


class ReptileTrainedMethod(TrainedMethod):
    """A generator trained by the two loops of REPTILE (Algorithm 2): its loss is a function of φ, its parameters, and
    of tensors."""

    def draw(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        """All that ``loss_of`` needs of an inner step, everything random included: tensors (B, …), or batches of
        them."""
        raise NotImplementedError

    def functional_loss(self, phi: Phi, batch: Mapping[str, Any]) -> Tensor:
        """The loss of each task (B,)."""
        raise NotImplementedError

    def step_loss(self, stream: torch.Generator) -> Callable[[Phi, Mapping[str, Any]], Tensor]:
        """``loss_of``, with what a step draws for all of its tasks at once."""
        return self.functional_loss

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        while training.step < training.steps:
            stream = step_generator(seed, training.step)
            source, recorded = trajectories.at(training.step, train)
            tasks, functional_loss = MetaBatch.draw(source, self.meta, stream), self.step_loss(stream)

            def mean_loss(phi: Phi, batch: Mapping[str, Any], functional_loss: Callable = functional_loss) -> Tensor:
                return functional_loss(phi, batch).mean()

            inner = [
                [self.draw(*part, stream) for part in tasks.parts(source, recorded, self.meta, stream)]
                for _ in range(self.meta.inner_steps)
            ]
            loss = meta_step(
                training,
                mean_loss,
                [list(each) for each in zip(*inner, strict=True)],
                inner_optimizer=self.meta.inner_optimizer,
                inner_lr=self.meta.inner_lr,
            )
            yield {"step": training.step, "loss": loss}


class MetaBatch:
    """Which tasks a step of meta-training is made of: recorded ones, by number (B,), and new ones, by their names (B,
    …)."""

    def __init__(self, recorded: Tensor, names: Tensor, n_shot: int) -> None:
        self.recorded, self.names, self.n_shot = recorded, names, n_shot

    @classmethod
    def draw(cls, train: TaskSource, meta: Meta, stream: torch.Generator) -> "MetaBatch":
        recorded = torch.randperm(len(train), generator=stream)[: meta.recorded_tasks]
        # evenly in its logarithm: the fewer images, the more there is to learn
        share = torch.rand((), generator=stream).item()
        n_shot = int(meta.min_shot * ((meta.max_shot + 1) / meta.min_shot) ** share)
        return cls(recorded, train.draw(meta.new_tasks, stream, n_way=meta.n_way), n_shot)

    def parts(
        self, train: TaskSource, trajectories: Trajectories, meta: Meta, stream: torch.Generator
    ) -> list[tuple[Task, Tensor | None]]:
        """The recorded tasks with their trajectories (B, P, D), and the new ones, whose rows are drawn anew at every
        call."""
        parts: list[tuple[Task, Tensor | None]] = []
        if len(self.recorded):
            parts.append((train.batch(self.recorded), trajectories.points(self.recorded)))
        if len(self.names):
            parts.append((train.new(self.names, stream, n_shot=self.n_shot, n_query=meta.query_images), None))
        return parts


def unit_rms(x: Tensor) -> Tensor:
    """Of each task (B, D)."""
    return x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-6)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of a step of meta-training, so that a resumed one goes on with the same; dropout draws them
    globally."""
    stream = named_generator(seed, "meta", step)
    seed_globally(stream.initial_seed())
    return stream
