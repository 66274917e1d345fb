"""What the diffusion methods share: the space, the loss, the loops. They differ in their ``Process`` alone."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.func import functional_call, grad

from ltdi.diffusion import sampler
from ltdi.diffusion.denoiser import DENOISERS
from ltdi.diffusion.process import VanillaProcess
from ltdi.diffusion.schedule import SCHEDULES
from ltdi.heads import task_losses
from ltdi.methods.base import TaskBatch, TrainedMethod, pad
from ltdi.reptile import Phi, meta_step
from ltdi.seeding import generator as named_generator
from ltdi.tasks import Support, Task, TaskSource, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories


class DiffusionMethod(TrainedMethod):
    """Diffusion of weights, given the support set.

    The chain runs in x = (w − centre) / scale. At generation all tasks start from the same noise, so that
    a task does not depend on its neighbours.

    Args:
        length: points of the trajectories; a ValueError says if the steps T cannot hold them.
        n_condition: numbers of ``Support.condition`` an image.
        diffusion: steps T, schedule, max_beta, prediction, weighting, visited, unroll, chain_noise, start_noise, gradient_input.
        denoiser: name, width, depth, heads, neurons_a_token, condition.
        meta: the loops and the loss; what ``TrainedMethod`` names, and inner_steps, inner_optimizer, inner_lr.
    """

    takes = ("length", "n_condition", "diffusion", "denoiser", "meta")
    process_class = VanillaProcess

    def __init__(self, start: Start, *, length: int, n_condition: int, diffusion: Mapping, denoiser: Mapping, meta: Mapping) -> None:
        super().__init__(start, meta=meta)
        self.diffusion = diffusion
        schedule = SCHEDULES[diffusion["schedule"]](diffusion["steps"], diffusion["max_beta"])
        self.process = self.process_class(schedule, self.process_class.index_map(length, diffusion["steps"]))
        sizes = {key: value for key, value in denoiser.items() if key != "name"}
        self.denoiser = DENOISERS[denoiser["name"]](
            start.head.space, "output", n_condition, channels=1 + diffusion["gradient_input"], **sizes
        )

    # -- the chain ---------------------------------------------------------------------------------

    def epsilon(self, phi: Phi, x_t: Tensor, t: Tensor, task: Mapping[str, Tensor]) -> Tensor:
        """ε_φ(x_t, t, c) (B, D) with the denoiser's parameters φ; ``task`` is what ``_known`` says."""
        channels = [x_t]
        if self.diffusion["gradient_input"]:
            channels.append(self._support_gradient(x_t, task["centre"], task["support"]))
        output = functional_call(self.denoiser, dict(phi), (torch.stack(channels, 1), t, task["condition"]))
        return self.process.epsilon(output, x_t, t, self.diffusion["prediction"])

    def _support_gradient(self, x_t: Tensor, centre: Tensor, support: Tensor) -> Tensor:
        """The support loss's gradient by x at x_t, of unit size a task: what a learned optimiser would see."""
        inputs, labels = labelled(support)
        g = grad(lambda x: task_losses(self.head, self.to_w(x, centre), inputs, labels).sum())(x_t.detach())
        return g / (g.square().mean(-1, keepdim=True).sqrt() + 1e-6)

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self.generate_chain(support, generator=generator)[-1]

    @torch.no_grad()
    def generate_chain(self, support: Support, *, generator: torch.Generator) -> Tensor:
        """The weights at every state of the chain, t = T … 0: (T+1, B, D)."""
        phi = dict(self.denoiser.named_parameters())
        task = self._known(support)
        centre = task["centre"]
        x_T, noise = (draw.to(centre) for draw in self._draw_noise(1, generator))
        states = sampler.chain(self.process, lambda x_t, t: self.epsilon(phi, x_t, t, task), x_T.expand_as(centre), noise)
        return torch.stack([self.to_w(x_t, centre) for _, x_t, _ in states])

    def _known(self, support: Support) -> dict[str, Tensor]:
        """What the support set says of a task: its centre (B, D), support features (B, N, K, F) and condition (B, N, K, C)."""
        return {"centre": self.start.centre(support), "support": support.features, "condition": support.condition}

    def _draw_noise(self, n: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """x_T (n, D) and the chain's noise (T, n, D)."""
        T, D = self.process.schedule.T, self.head.space.dim
        draws = torch.randn(T + 1, n, D, generator=stream, device=stream.device)
        return self.diffusion["start_noise"] * draws[0], self.diffusion["chain_noise"] * draws[1:]

    # -- meta-training -----------------------------------------------------------------------------

    def meta_train(self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int) -> Iterator[dict[str, float]]:
        """REPTILE over the trajectory loss and the query loss (Algorithm 2)."""
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            batch = TaskBatch.draw(train, self.meta, stream)
            points = batch.points(trajectories)
            batches = [self._draw(batch.task(train, self.meta, stream), points, stream) for _ in range(self.meta["inner_steps"])]
            loss = meta_step(
                training,
                lambda phi, batch: self._loss(_denoiser_part(phi), batch).mean(),
                batches,
                inner_optimizer=self.meta["inner_optimizer"],
                inner_lr=self.meta["inner_lr"],
            )
            yield {"step": training.step, "loss": loss}

    def _draw(self, task: Task, points: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
        """Everything random of one inner step, so that the loss itself is a function; points (B', P, D), B' ≤ B."""
        known = self._known(task.support)
        centre, n_recorded = known["centre"], len(points)
        B, T = len(centre), self.process.schedule.T
        points = pad(points.to(centre), B)
        t = torch.randint(1, T + 1, (B,), generator=stream).to(centre.device)
        every_t = torch.arange(T + 1, device=centre.device).clamp_min(1).expand(B, -1)
        i = self.process.draw_target(every_t.flatten(), stream).unflatten(0, every_t.shape)
        x_T, chain_noise = self._draw_noise(B, stream)
        return known | {
            "query": task.query.features,
            "recorded": (torch.arange(B, device=centre.device) < n_recorded).to(centre),
            "points": self.to_x(points, centre[:, None]),
            "t": t,
            "i": i,
            "noise": torch.randn(B, self.head.space.dim, generator=stream).to(centre),
            "x_T": x_T.to(centre),
            "chain_noise": chain_noise.transpose(0, 1).to(centre),
        }

    def _loss(self, phi: Phi, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of each task (B,): on states from the data and on states that the sampler visits, by their shares."""
        visited = self.diffusion["visited"]
        total = torch.zeros_like(batch["centre"][:, 0])
        if visited < 1:
            t, i = batch["t"], _at(batch["i"], batch["t"])
            x_t = self.process.sample(_pick(batch["points"], i), t, i, batch["noise"])
            epsilon = self.epsilon(phi, x_t, t, batch)
            total = total + (1 - visited) * self._loss_at(epsilon, x_t, t, i, batch)
        if visited > 0:
            losses = []

            def epsilon_of(x_t: Tensor, t: Tensor) -> Tensor:
                # without unroll the state is given, not learned through: every step is a regression of its own
                x_t = x_t if self.diffusion["unroll"] else x_t.detach()
                epsilon = self.epsilon(phi, x_t, t, batch)
                losses.append(self._loss_at(epsilon, x_t, t, _at(batch["i"], t), batch))
                return epsilon

            for _ in sampler.chain(self.process, epsilon_of, batch["x_T"], batch["chain_noise"].transpose(0, 1)):
                pass
            total = total + visited * torch.stack(losses).mean(0)
        return total

    def _loss_at(self, epsilon: Tensor, x_t: Tensor, t: Tensor, i: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        loss = torch.zeros_like(x_t[:, 0])
        if self.meta["weight_loss"] > 0:
            weights = self.process.loss(epsilon, x_t, t, i, _pick(batch["points"], i), self.diffusion["weighting"])
            loss = loss + self.meta["weight_loss"] * batch["recorded"] * weights
        if self.meta["query_loss"] > 0:
            # the head that the state points at must work on the query, whichever recorded point it stands for
            w = self.to_w(self.process.endpoint(epsilon, x_t, t, self.process.target(t)), batch["centre"])
            loss = loss + self.meta["query_loss"] * task_losses(self.head, w, *labelled(batch["query"]))
        return loss

    @torch.no_grad()
    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """The weight loss of every sub-chain, on states from the data (the paper's Figure 4, right)."""
        stream = named_generator(seed, "validate")
        phi = dict(self.denoiser.named_parameters())
        batch = self._draw(val.batch(torch.arange(len(val))), trajectories.points, stream)
        losses = {}
        for t in range(1, self.process.schedule.T + 1):
            times = torch.full_like(batch["t"], t)
            i = self.process.target(times)
            x_t = self.process.sample(_pick(batch["points"], i), times, i, batch["noise"])
            epsilon = self.epsilon(phi, x_t, times, batch)
            loss = self.process.loss(epsilon, x_t, times, i, _pick(batch["points"], i), "weights").mean().item()
            losses.setdefault(f"val_loss_w{int(i[0])}", []).append(loss)
        return {name: sum(values) / len(values) for name, values in sorted(losses.items())}

    def _apply(self, fn, recurse: bool = True):
        """Also moves the constants of the process to another device."""
        super()._apply(fn, recurse)
        self.process = self.process.map(fn)
        return self


def _pick(points: Tensor, i: Tensor) -> Tensor:
    """points (B, P, D), i (B,) -> (B, D)."""
    return points.take_along_dim(i[:, None, None], 1).squeeze(1)


def _at(i: Tensor, t: Tensor) -> Tensor:
    """The targets drawn for every time, i (B, T+1), at times t (B,): (B,)."""
    return i.take_along_dim(t[:, None], 1).squeeze(1)


def _denoiser_part(phi: Phi) -> dict[str, Tensor]:
    return {name.removeprefix("denoiser."): value for name, value in phi.items()}
