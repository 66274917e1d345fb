"""Base classes of generators meta-trained by gradient steps: coordinates, loops, meta-batches, update scale."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltdi.config import MetaTraining
from ltdi.initialization import Initialization
from ltdi.meta_learning.model_selection import scores_on_new_tasks
from ltdi.meta_learning.reptile import Phi, meta_step
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, Task, TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.nn import Standardise
from ltdi.utils.seeding import generator as named_generator
from ltdi.utils.seeding import seed_globally
from ltdi.utils.trainer import Row, Training

UPDATE_SCALE_CANDIDATES = (1.0, 0.75, 0.5, 0.25)
"""Candidate update scales; 0, the initialization itself, is compared too."""
UPDATE_SCALE_SHOTS = (1, 2, 5)
"""Values of n_shot for which an update scale is selected."""
UPDATE_SCALE_N_WAY = 20
"""n_way of the tasks of this selection: with few classes accuracy saturates and cannot tell candidates apart."""


class TrainedMethod(Method):
    """A generator that is meta-trained by gradient steps. Subclasses implement ``loss`` and ``propose``.

    Generators work in coordinates x = (w − centre) / scale: the centre (B, D) is the initialization that follows from
    the context, the scale (D,) the root mean square distance of trained weights from it, by layer; biases are taken at
    a reference point of the last layer's input. After meta-training an update scale, a factor of w − centre, is
    selected on meta-val by n_shot: a generator that does not transfer to other classes then does no harm.
    """

    uses_trajectories: ClassVar[bool] = True
    """Whether the loss uses recorded trajectories."""

    layer_scale: Tensor
    """The scale by layer (layers,)."""
    reference: Tensor
    """Reference point of the biases, a mean input of the last layer (H,)."""
    update_scale: Tensor
    """The selected update scales, by ``UPDATE_SCALE_SHOTS``."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        meta = setup.meta
        # tasks that do not count in the loss are not drawn
        recorded, new = self.uses_trajectories and meta.weight_loss > 0, meta.query_loss > 0
        self.meta = meta.model_copy(
            update={"recorded_tasks": recorded * meta.recorded_tasks, "new_tasks": new * meta.new_tasks}
        )
        self.fixed_n_way = initialization.fixed_n_way
        slot = self.space.slot_layer if initialization.shown else None
        self.conditioning_width = self.learner.n_numbers + (self.space.numbers[slot] if slot else 0)
        self.register_buffer("layer_scale", torch.ones(len(self.space.layers)))
        self.register_buffer("reference", torch.zeros(self.learner.n_reference))
        self.register_buffer("update_scale", torch.ones(len(UPDATE_SCALE_SHOTS)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit the input standardisation, the scale of x by layer and the reference of the biases on the train tasks."""
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
        """Fit every ``Standardise`` module to its inputs on recorded tasks: support rows or conditioning vectors."""
        layers = [module for module in self.modules() if isinstance(module, Standardise)]
        if not layers:
            return
        moments: dict[int, list[Tensor]] = {}
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
                moments.setdefault(n_numbers, []).append(sums)
        for layer in layers:
            n, total, squares = torch.stack(moments[len(layer.mean)]).sum(0)
            layer.fit(total / n, (squares / n - (total / n).square()).clamp_min(0).sqrt())

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Generate weights (B, D) before the update scale is applied.

        Args:
            context: support sets of the tasks.
            centre: the initialization that follows from the context (B, D).
            generator: of the noise.
        """
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Propose weights and apply the update scale: (B, D)."""
        centre = self.initialization.centre(context)
        return self.apply_update_scale(self.propose(context, centre, generator=generator), centre, context)

    def apply_update_scale(self, w: Tensor, centre: Tensor, context: Context) -> Tensor:
        """Shrink weights w (…, B, D) towards the centre (B, D) by the update scale for the task's mean n_shot."""
        if context.mask is None:
            distances = [abs(math.log(context.rows.shape[2] / shots)) for shots in UPDATE_SCALE_SHOTS]
            update_scale = self.update_scale[distances.index(min(distances))]
        else:
            shots = torch.tensor(UPDATE_SCALE_SHOTS, device=w.device).log()
            nearest = (context.present.sum(-1).mean(-1).log()[:, None] - shots).abs().argmin(-1)
            update_scale = self.update_scale[nearest][:, None]
        return torch.lerp(centre, w, update_scale)

    @torch.no_grad()
    def finish(self, val: TaskSource, *, seed: int) -> None:
        """Select the update scale for each of ``UPDATE_SCALE_SHOTS`` by the score on new meta-val tasks.

        0, the initialization itself, unless the best candidate is better by more than the 95 % interval.
        """

        def at_every_scale(context: Context) -> list[Tensor]:
            centre = self.initialization.centre(context)
            w = self.propose(context, centre, generator=named_generator(seed, "noise"))
            return [torch.lerp(centre, w, update_scale) for update_scale in (*UPDATE_SCALE_CANDIDATES, 0.0)]

        for j, n_shot in enumerate(UPDATE_SCALE_SHOTS):
            if n_shot > val.most_shots:
                self.update_scale[j:] = self.update_scale[j - 1]
                return
            *scaled, initial = scores_on_new_tasks(
                self.learner,
                val,
                at_every_scale,
                n_tasks=self.learner.selection_tasks,
                stream=named_generator(seed, "strength", n_shot),
                n_way=None if self.fixed_n_way else UPDATE_SCALE_N_WAY,
                n_shot=n_shot,
            )
            best = max(range(len(UPDATE_SCALE_CANDIDATES)), key=lambda i: scaled[i].mean().item())
            gain, ci95 = mean_and_ci95(scaled[best] - initial)
            self.update_scale[j] = UPDATE_SCALE_CANDIDATES[best] if gain > ci95 else 0.0

    def copy_selection(self, other: Method) -> None:
        """Copy the update scales of ``other``."""
        assert isinstance(other, TrainedMethod)
        self.update_scale.copy_(other.update_scale)

    def conditioning(self, context: Context, centre: Tensor) -> Tensor:
        """Return the class-conditioning vectors (B, N, conditioning_width).

        The mean of a class's support rows and, where the initialization carries more information than these, the
        class's row of the centre (B, D), scaled to unit root mean square.
        """
        rows = context.means
        if self.conditioning_width == rows.shape[-1]:
            return rows
        initial = self.space.tokens(unit_rms(centre))[str(self.space.slot_layer)]
        return torch.cat([rows, initial], -1)

    def scale(self, dim: int) -> Tensor:
        """Return the scale of x for vectors of ``dim`` numbers (D,), constant within a layer."""
        return self.space.spread(self.layer_scale, dim)

    def coordinate_weights(self, dim: int) -> Tensor:
        """Return the factors of the squared coordinates of x in the weight loss (D,), 1 in the mean.

        They give every layer the same weight, however many numbers it has.
        """
        sizes = [neurons * numbers for neurons, numbers in self.space.sizes(dim)]
        equal = self.layer_scale.new_tensor([dim / len(sizes) / size for size in sizes])
        return self.space.spread(equal, dim)

    def to_x(self, w: Tensor, centre: Tensor) -> Tensor:
        """Transform weights w (…, D) to coordinates x (…, D)."""
        return self.learner.rebased(w - centre, self.reference) / self.scale(w.shape[-1])

    def to_w(self, x: Tensor, centre: Tensor) -> Tensor:
        """Transform coordinates x (…, D) to weights w (…, D): the inverse of ``to_x``."""
        return centre + self.learner.rebased(self.scale(x.shape[-1]) * x, -self.reference)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Return the loss of each task (B,).

        Args:
            task: the tasks, with their query sets.
            points: recorded trajectories (B, P, D); None for new tasks.
            stream: generator of everything random.
        """
        raise NotImplementedError

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train jointly over tasks: a gradient step on the mean loss of each meta-batch."""
        while training.step < training.steps:
            stream = step_generator(seed, training.step)
            source, recorded = trajectories.at(training.step, train)
            parts = MetaBatch.draw(source, self.meta, stream).parts(source, recorded, self.meta, stream)
            loss = torch.stack([self.loss(task, points, stream).mean() for task, points in parts]).sum()
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.detach()}

    def weights_loss(self, w: Tensor, task: Task, points: Tensor | None) -> Tensor:
        """Return query_loss × the loss of w (B, D) on the query set, plus weight_loss × the weight MSE in x: (B,).

        The weight MSE, to the trained weights ``points[:, 0]`` and by ``coordinate_weights``, is that of recorded tasks
        only.
        """
        loss = self.meta.query_loss * self.learner.loss(w, task.query)
        if points is not None:
            squares = self.coordinate_weights(w.shape[-1]) * self.to_x(w, points[:, 0].to(w)).square()
            loss = loss + self.meta.weight_loss * squares.mean(-1)
        return loss


class ReptileTrainedMethod(TrainedMethod):
    """A generator meta-trained by REPTILE (Algorithm 2): its loss is a pure function of parameters φ and tensors."""

    def draw_inputs(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        """Draw the inputs of ``functional_loss`` for one inner step, all random numbers included.

        Args:
            task: the tasks, with their query sets.
            points: recorded trajectories (B, P, D); None for new tasks.
            stream: generator of everything random.

        Returns:
            Tensors (B, …) by name, or batches of them.
        """
        raise NotImplementedError

    def functional_loss(self, phi: Phi, batch: Mapping[str, Any]) -> Tensor:
        """Return the loss of each task (B,) at parameters φ on inputs from ``draw_inputs``."""
        raise NotImplementedError

    def step_loss(self, stream: torch.Generator) -> Callable[[Phi, Mapping[str, Any]], Tensor]:
        """Return the loss function of one outer step: ``functional_loss`` with what all tasks of the step share."""
        return self.functional_loss

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train by REPTILE: an outer step on each meta-batch, with ``meta.inner_steps`` inner steps."""
        while training.step < training.steps:
            stream = step_generator(seed, training.step)
            source, recorded = trajectories.at(training.step, train)
            tasks, functional_loss = MetaBatch.draw(source, self.meta, stream), self.step_loss(stream)

            def mean_loss(phi: Phi, batch: Mapping[str, Any], functional_loss: Callable = functional_loss) -> Tensor:
                return functional_loss(phi, batch).mean()

            inner = [
                [self.draw_inputs(*part, stream) for part in tasks.parts(source, recorded, self.meta, stream)]
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
    """The tasks of one meta-training step.

    Args:
        recorded: numbers of recorded tasks (B,).
        names: identifiers of new tasks (B, …), from ``TaskSource.draw``.
        n_shot: support rows per class of the new tasks.
    """

    def __init__(self, recorded: Tensor, names: Tensor, n_shot: int) -> None:
        self.recorded, self.names, self.n_shot = recorded, names, n_shot

    @classmethod
    def draw(cls, train: TaskSource, meta: MetaTraining, stream: torch.Generator) -> "MetaBatch":
        """Draw the tasks of a step; the n_shot of new tasks is log-uniform in [min_shot, max_shot]."""
        recorded = torch.randperm(len(train), generator=stream)[: meta.recorded_tasks]
        # log-uniform, because accuracy changes most where images are few
        share = torch.rand((), generator=stream).item()
        n_shot = int(meta.min_shot * ((meta.max_shot + 1) / meta.min_shot) ** share)
        return cls(recorded, train.draw(meta.new_tasks, stream, n_way=meta.n_way), n_shot)

    def parts(
        self, train: TaskSource, trajectories: Trajectories, meta: MetaTraining, stream: torch.Generator
    ) -> list[tuple[Task, Tensor | None]]:
        """Return the recorded tasks with their trajectories (B, P, D), and the new tasks with None.

        Support and query sets of new tasks are drawn anew at every call.
        """
        parts: list[tuple[Task, Tensor | None]] = []
        if len(self.recorded):
            parts.append((train.batch(self.recorded), trajectories.points(self.recorded)))
        if len(self.names):
            parts.append((train.new(self.names, stream, n_shot=self.n_shot, n_query=meta.query_images), None))
        return parts


def unit_rms(x: Tensor) -> Tensor:
    """Scale vectors x (…, D) to unit root mean square."""
    return x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-6)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random generator of a meta-training step, and seed the global one, which dropout uses.

    The numbers depend on seed and step only, so that a resumed training continues with the same ones.
    """
    stream = named_generator(seed, "meta", step)
    seed_globally(stream.initial_seed())
    return stream
