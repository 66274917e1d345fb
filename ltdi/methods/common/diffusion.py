"""Base class of the diffusion methods: coordinates, losses, sampling. Subclasses differ in ``process_class`` alone."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad

from ltdi.diffusion import sampler
from ltdi.diffusion.denoiser import Skip
from ltdi.diffusion.process import VanillaProcess
from ltdi.initialization import Initialization
from ltdi.initialization.gaussian import Fresh
from ltdi.meta_learning.reptile import CURRENT_PARAMETERS, Phi, functional_forward, weighted_sum
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import ReptileTrainedMethod, unit_rms
from ltdi.tasks.base import Context, Task, TaskSource, batches
from ltdi.tasks.batch import batch_size, map_batch
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator as named_generator


class DiffusionMethod(ReptileTrainedMethod):
    """Conditional diffusion of weights, meta-trained by REPTILE.

    The diffusion runs in x = (w − centre) / scale. At generation all tasks start from the same noise, so that
    a task's weights do not depend on the other tasks of the batch.

    Raises:
        ValueError: T is smaller than the number of segments of the trajectories.
        InputError: ``diffusion.gradient_input`` without labelled examples; ``diffusion.noise = initialization`` where
            all tasks share their initialization.
    """

    process_class: ClassVar[type[VanillaProcess]] = VanillaProcess
    """Which recorded point a state is trained toward."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self.fixed_n_way |= setup.fixed_n_way
        self.diffusion = diffusion = setup.diffusion
        if diffusion.gradient_input and "examples" not in setup.provides:
            raise InputError(
                "diffusion.gradient_input = true needs labelled examples, which these tasks do not have; set false"
            )
        self.conditions_on_means = setup.denoiser.condition == "mean"
        if diffusion.noise == "initialization" and not isinstance(initialization, Fresh):
            raise InputError(
                "diffusion.noise = initialization needs a random initialization for each task, and"
                f" trajectories.initialization = {initialization.kind} has none; set fresh, or diffusion.noise ="
                " gaussian"
            )
        self.process = self.process_class(setup.schedule, self.process_class.index_map(setup.length, diffusion.steps))
        channels = 1 + diffusion.gradient_input + initialization.shown
        self.denoiser = setup.network(self.learner, channels=channels)
        if isinstance(skip := self.denoiser.skip, Skip):
            # at large t the target ε is nearly x_t: from zero, a network would take long to learn that
            with torch.no_grad():
                skip.factor.copy_(self.process.linear_estimate(diffusion.prediction)[:, None])

    # -- sampling ----------------------------------------------------------------------------------

    def epsilon(self, phi: Phi, x_t: Tensor, t: Tensor, task: Mapping[str, Any]) -> Tensor:
        """Predict ε_φ(x_t, t, c) (B, D).

        Args:
            phi: parameters φ of the denoiser.
            x_t: states (B, D).
            t: times (B,).
            task: conditioning c, the dict of ``_conditioning``.
        """
        channels = [x_t]
        if self.diffusion.gradient_input:
            channels.append(self._example_gradient(x_t, task))
        if self.initialization.shown:
            channels.append(task["shown"])
        x = torch.stack(channels, 1) if len(channels) > 1 else x_t[:, None]
        output = functional_forward(self.denoiser, phi, x, t, task["rows"], task.get("present"))
        return self.process.epsilon(output, x_t, t, self.diffusion.prediction)

    def _example_gradient(self, x_t: Tensor, task: Mapping[str, Any]) -> Tensor:
        """Return the gradient in x at x_t of the loss on the support set, scaled to unit root mean square: (B, D).

        It is the input of a learned optimiser.
        """
        loss = self.learner.loss
        g = grad(lambda x: loss(self.to_w(x, task["centre"]), task["examples"]).sum())(x_t.detach())
        return unit_rms(g)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Sample weights (B, D) from noise by reverse diffusion, given the context."""
        *_, (_, x_0, _) = self._denoising_steps(self._conditioning(context, centre), generator)
        return self.to_w(x_0, centre)

    @torch.no_grad()
    def generate_sampling_trajectory(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Generate weights and return those of all states of the sampling trajectory, t = T … 0: (T+1, B, D)."""
        centre = self.initialization.centre(context)
        return self.apply_update_scale(self.sampling_trajectory(context, centre, generator=generator), centre, context)

    def sampling_trajectory(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the weights of all states of the sampling trajectory, t = T … 0, without update scale: (T+1, B, D)."""
        states = self._denoising_steps(self._conditioning(context, centre), generator)
        return torch.stack([self.to_w(x_t, centre) for _, x_t, _ in states])

    def _denoising_steps(
        self, task: Mapping[str, Any], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the steps of ``sampler.denoise`` with the current parameters; all tasks share the noise."""
        n_way = task["rows"].shape[1]
        x_T, noise = self._draw_noise(task["centre"][:1], n_way, generator, last=True)
        epsilon = partial(self.epsilon, CURRENT_PARAMETERS, task=task)
        return self._denoise(epsilon, x_T.expand_as(task["centre"]), noise)

    def _denoise(
        self, epsilon: Callable[[Tensor, Tensor], Tensor], x_T: Tensor, noise: Tensor | None, until: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        step, scaled = sampler.SAMPLERS[self.diffusion.sampler], self.diffusion.scaled_joins
        return sampler.denoise(self.process, epsilon, x_T, noise, until, step=step, scaled_joins=scaled)

    def _conditioning(self, context: Context, centre: Tensor) -> dict[str, Any]:
        """Return the conditioning of a batch of tasks as a dict of tensors.

        ``centre`` (B, D); ``shown`` (B, D), the centre as an input of the denoiser, where it has one; ``rows``
        (B, N, K, C), or their means with K = 1 if the denoiser conditions on means; ``present`` (B, N, K) where rows
        are padded; ``examples`` where the denoiser gets their gradient.
        """
        conditioning: dict[str, Any] = {"centre": centre}
        if self.initialization.shown:
            conditioning["shown"] = unit_rms(centre)
        if self.conditions_on_means:
            conditioning["rows"] = context.means[:, :, None]
        else:
            conditioning |= {"rows": context.rows} | ({} if context.mask is None else {"present": context.present})
        return conditioning | {"examples": context.examples} if self.diffusion.gradient_input else conditioning

    def _draw_noise(
        self, centre: Tensor, n_way: int, stream: torch.Generator, *, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Draw x_T (B, D) and the noise of the denoising steps (T, B, D), None if its size is 0.

        Args:
            centre: centres of the tasks (B, D).
            n_way: classes of a task.
            stream: generator of the noise.
            last: nothing is drawn from ``stream`` afterwards. Otherwise noise of size 0 is drawn too, so that later
                draws do not depend on its size.
        """
        start, chain, T = self.diffusion.start_noise, self.diffusion.chain_noise, self.process.schedule.T
        if last and not start and not chain and self.diffusion.noise == "gaussian":
            return torch.zeros_like(centre), None
        if isinstance(self.initialization, Fresh) and self.diffusion.noise == "initialization":
            # drawn like recorded initializations: ε = w_n in the coordinates x
            x_T = self.to_x(self.initialization.initial(len(centre), n_way, stream).to(centre), centre)
        else:
            x_T = start * torch.randn(centre.shape, generator=stream, device=stream.device).to(centre)
        seed = torch.randint(2**62, (), generator=stream, device=stream.device)
        if not chain:
            return x_T, None
        # T times as much as x_T: from a separate generator, so that none is drawn where its size is 0
        draws = torch.Generator(stream.device).manual_seed(int(seed))
        return x_T, chain * torch.randn(T, *centre.shape, generator=draws, device=stream.device).to(centre)

    # -- meta-training -----------------------------------------------------------------------------

    def draw_inputs(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        """Draw conditioning, query set and noise of an inner step; for recorded tasks also times t and targets i."""
        centre, T = self.initialization.centre(task.context), self.process.schedule.T
        conditioning = self._conditioning(task.context, centre)
        # new tasks are drawn last in an inner step
        x_T, chain_noise = self._draw_noise(
            centre, task.context.n_way, stream, last=points is None and self.meta.inner_steps == 1
        )
        drawn = conditioning | {"query": task.query, "x_T": x_T}
        if chain_noise is not None:
            drawn["chain_noise"] = chain_noise.transpose(0, 1)
        if points is None:
            return drawn
        t = torch.randint(1, T + 1, (len(centre),), generator=stream)
        if self.diffusion.final_share:
            t = torch.where(torch.rand(len(t), generator=stream) < self.diffusion.final_share, T, t)
        t = t.to(centre.device)
        every_t = torch.arange(T + 1, device=centre.device).clamp_min(1).expand(len(centre), -1)
        i = self.process.draw_target(every_t.flatten(), stream).unflatten(0, every_t.shape)
        noise, recorded = (
            torch.randn(centre.shape, generator=stream).to(centre),
            self.to_x(points.to(centre), centre[:, None]),
        )
        if self.diffusion.noise == "initialization":
            noise = drawn["x_T"] = recorded[:, -1]
        return drawn | {"points": recorded, "t": t, "i": i, "noise": noise}

    def step_loss(self, stream: torch.Generator) -> Callable[[Phi, Mapping[str, Any]], Tensor]:
        """Draw the time of the on-policy states, one per outer step for all tasks: the fastest per task."""
        return partial(
            self.functional_loss, visit=int(torch.randint(1, self.process.schedule.T + 1, (), generator=stream))
        )

    def functional_loss(self, phi: Phi, batch: Mapping[str, Any], visit: int = 1) -> Tensor:
        """Return the loss of each task (B,).

        A share ``diffusion.on_policy`` of the recorded tasks, and all new tasks, are trained on the on-policy state
        that the sampler reaches at time ``visit``; the others on a state from the forward process. A single recorded
        task has the weighted sum of both losses.
        """
        phi = {name.removeprefix("denoiser."): value for name, value in phi.items()}
        on_policy, B = self.diffusion.on_policy if "points" in batch else 1.0, batch_size(batch)
        if B == 1 and 0 < on_policy < 1:
            parts = [
                (1 - on_policy, self._loss_from_data(phi, batch)),
                (on_policy, self._loss_on_policy(phi, batch, visit)),
            ]
            return weighted_sum(parts)
        n = round(on_policy * B)
        if n == B:
            return self._loss_on_policy(phi, batch, visit)
        if n == 0:
            return self._loss_from_data(phi, batch)
        first, others = (map_batch(itemgetter(part), batch) for part in (slice(n), slice(n, None)))
        return torch.cat([self._loss_on_policy(phi, first, visit), self._loss_from_data(phi, others)])

    def _loss_from_data(self, phi: Phi, batch: Mapping[str, Any]) -> Tensor:
        t, i = batch["t"], _at(batch["i"], batch["t"])
        x_t = self.process.sample(_pick(batch["points"], i), t, i, batch["noise"])
        return self._loss_at(phi, x_t, t, batch)

    def _loss_on_policy(self, phi: Phi, batch: Mapping[str, Any], visit: int) -> Tensor:
        with torch.no_grad():  # no gradient through the sampler: every denoising step is a regression of its own
            noise = batch["chain_noise"].transpose(0, 1) if "chain_noise" in batch else None
            *_, (t, x_t, _) = self._denoise(partial(self.epsilon, phi, task=batch), batch["x_T"], noise, until=visit)
        return self._loss_at(phi, x_t, t, batch)

    def _loss_at(self, phi: Phi, x_t: Tensor, t: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the weighted sum of the query loss and, for recorded tasks, of the weight loss at states x_t: (B,)."""
        epsilon, losses = self.epsilon(phi, x_t, t, batch), []
        if "points" in batch:
            i = _at(batch["i"], t)
            weights = self.process.loss(
                epsilon,
                x_t,
                t,
                i,
                _pick(batch["points"], i),
                self.diffusion.weighting,
                self.coordinate_weights(epsilon.shape[-1]),
            )
            losses.append((self.meta.weight_loss, weights))
        if self.meta.query_loss > 0:
            # the weights implied by ε_φ must classify the query set, whichever recorded point they estimate
            w = self.to_w(self.process.endpoint(epsilon, x_t, t, self.process.target(t)), batch["centre"])
            losses.append((self.meta.query_loss, self.learner.loss(w, batch["query"])))
        return weighted_sum(losses)

    @torch.no_grad()
    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """Return the weight loss of every sub-chain on states of the forward process (the paper's Figure 4, right)."""
        stream = named_generator(seed, "validate")
        losses: dict[str, list[Tensor]] = {}
        for tasks in batches(len(val)):
            batch = self.draw_inputs(val.batch(tasks), trajectories.points(tasks), stream)
            for t in range(1, self.process.schedule.T + 1):
                times = torch.full_like(batch["t"], t)
                i = self.process.target(times)
                x_t = self.process.sample(_pick(batch["points"], i), times, i, batch["noise"])
                epsilon = self.epsilon(CURRENT_PARAMETERS, x_t, times, batch)
                loss = self.process.loss(epsilon, x_t, times, i, _pick(batch["points"], i), "weights")
                losses.setdefault(f"val_loss_w{int(i[0])}", []).append(loss)
        return {name: torch.cat(values).mean().item() for name, values in sorted(losses.items())}


def _pick(points: Tensor, i: Tensor) -> Tensor:
    """Take point i (B,) of each trajectory (B, P, D): (B, D)."""
    return points.take_along_dim(i[:, None, None], 1).squeeze(1)


def _at(i: Tensor, t: Tensor) -> Tensor:
    """Take the targets drawn for every time, i (B, T+1), at times t (B,): (B,)."""
    return i.take_along_dim(t[:, None], 1).squeeze(1)
