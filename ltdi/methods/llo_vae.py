"""LLO-VAE, the ablation of "Learning to Learn Weight Generation via Trajectory Diffusion" (Table 1, C1 alone): a vanilla VAE of trained heads.

A variational auto-encoder (Kingma, Welling 2014, "Auto-Encoding Variational Bayes") of trained heads x_0, given the support set,
takes the diffusion's place in the same two loops of REPTILE. The head of a new task is decoded from a draw of the prior.

Differences from the published form, of which the paper gives no more than the names above:
- Encoder and decoder are the transformer denoiser's blocks and see the condition as it does; each neuron token has a latent of its own.
- The decoder's variance is the knob β: the bound is that of x ~ N(decoder(z), β I), times 2β/D, which makes it a squared error and a KL.
- ``meta.query_loss`` also trains the decoder through the head that it generates, as for every trained method here.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ltdi.diffusion.denoiser import ClassCondition, Tokens
from ltdi.heads import task_losses
from ltdi.methods.base import TaskBatch, TrainedMethod, pad
from ltdi.nn import TransformerBlock
from ltdi.reptile import Phi, meta_step
from ltdi.seeding import generator as named_generator
from ltdi.tasks import Support, Task, TaskSource, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories
from ltdi.weights import WeightSpace

LARGEST_LOG_VAR = 20.0


class LloVae(TrainedMethod):
    """
    Args:
        denoiser: width, depth, heads, neurons_a_token and condition, of the encoder and of the decoder.
        meta: the loops and the loss, with inner_steps, inner_optimizer, inner_lr; weight_loss is the coefficient of the bound.
        latent: numbers of z a token.
        beta: the weight of the KL, which is the decoder's variance in units of the trained heads' distance from the start.
        temperature: the scale of the draws that heads are decoded from; 1 draws from the prior, 0 takes its mean.
    """

    takes = ("n_condition", "denoiser", "meta")

    def __init__(self, start: Start, *, n_condition: int, denoiser: Mapping, meta: Mapping, latent: int, beta: float, temperature: float) -> None:
        super().__init__(start, meta=meta)
        self.beta, self.temperature = beta, temperature
        sizes = {key: value for key, value in denoiser.items() if key != "name"}
        self.vae = Vae(start.head.space, "output", n_condition, latent=latent, **sizes)

    @torch.no_grad()
    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        centre = self.start.centre(support)
        # all tasks decode the same draw, so that a task does not depend on its neighbours
        z = self.temperature * torch.randn(1, *self.vae.latent_shape, generator=generator, device=generator.device).to(centre)
        return self.to_w(self.vae.decode(z.expand(len(centre), -1, -1), support.condition), centre)

    def meta_train(self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int) -> Iterator[dict[str, float]]:
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            batch = TaskBatch.draw(train, self.meta, stream)
            points = batch.points(trajectories)
            loss = meta_step(
                training,
                lambda phi, inner: self._loss(phi, inner).mean(),
                [self._draw(batch.task(train, self.meta, stream), points, stream) for _ in range(self.meta["inner_steps"])],
                inner_optimizer=self.meta["inner_optimizer"],
                inner_lr=self.meta["inner_lr"],
            )
            yield {"step": training.step, "loss": loss}

    def _draw(self, task: Task, points: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
        """Everything random of one inner step, so that the loss itself is a function; points (B', P, D), B' ≤ B."""
        centre = self.start.centre(task.support)
        noise, z = torch.randn(2, len(centre), *self.vae.latent_shape, generator=stream).to(centre)
        return {
            "condition": task.support.condition,
            "query": task.query.features,
            "centre": centre,
            "recorded": (torch.arange(len(centre), device=centre.device) < len(points)).to(centre),
            "x_0": pad(self.to_x(points[:, 0].to(centre), centre[: len(points)]), len(centre)),
            "noise": noise,
            "z": self.temperature * z,
        }

    def _loss(self, phi: Phi, batch: Mapping[str, Tensor]) -> Tensor:
        """weight_loss × the negative bound + query_loss × the query cross-entropy of a generated head: (B,)."""
        vae = {name.removeprefix("vae."): value for name, value in phi.items()}
        error, kl, x = functional_call(self.vae, vae, tuple(batch[name] for name in ("x_0", "noise", "z", "condition")))
        bound = error + self.beta * 2 / self.head.space.dim * kl
        query = task_losses(self.head, self.to_w(x, batch["centre"]), *labelled(batch["query"]))
        return self.meta["weight_loss"] * batch["recorded"] * bound + self.meta["query_loss"] * query

    @torch.no_grad()
    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """How far off the trained heads are decoded from draws of their posterior, and what these say of them."""
        batch = self._draw(val.batch(torch.arange(len(val))), trajectories.points, named_generator(seed, "validate"))
        error, kl, _ = self.vae(*(batch[name] for name in ("x_0", "noise", "z", "condition")))
        return {"val_loss_w0": error.mean().item(), "val_kl": kl.mean().item()}


class Vae(nn.Module):
    """Vectors x (B, D) given conditions (B, N, K, C) <-> latents z (B, L, latent), a row a token."""

    def __init__(
        self,
        space: WeightSpace,
        slot_layer: str,
        n_condition: int,
        *,
        latent: int,
        width: int,
        depth: int,
        heads: int,
        neurons_a_token: int,
        condition: str,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(space, 1, width, neurons_a_token, slot_layer)
        self.slot_layer = slot_layer
        self.lengths = [neurons // group for (neurons, _), group in zip(space.token_shapes.values(), self.tokens.groups)]
        self.latent_shape = (sum(self.lengths), latent)
        self.condition = ClassCondition(n_condition, width, heads, condition)
        self.encoder, self.decoder = (nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth)) for _ in range(2))
        self.posterior = nn.Linear(width, 2 * latent)
        self.latent = nn.Linear(latent, width)

    def encode(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x) (B, L, latent)."""
        h = self._through(self.encoder, self.tokens.read(x[:, None]), condition)
        mean, log_var = self.posterior(h).chunk(2, dim=-1)
        # far from the recorded start, as a redrawn support set may lie, x is large, and the exponential of the rest overflows
        return mean, log_var.clamp(max=LARGEST_LOG_VAR)

    def decode(self, z: Tensor, condition: Tensor) -> Tensor:
        """(B, D)"""
        rows = zip(self.tokens.space.layers, self.latent(z).split(self.lengths, dim=1), self.tokens.place)
        h = self._through(self.decoder, {layer: row + place for layer, row, place in rows}, condition)
        return self.tokens.write(dict(zip(self.tokens.space.layers, h.split(self.lengths, dim=1))))

    def forward(self, x: Tensor, noise: Tensor, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean squared error of x decoded from its posterior (B,), the posterior's KL (B,), and z decoded (B, D)."""
        mean, log_var = self.encode(x, condition)
        error = (self.decode(mean + (log_var / 2).exp() * noise, condition) - x).square().mean(-1)
        return error, kl_to_prior(mean, log_var), self.decode(z, condition)

    def _through(self, blocks: nn.ModuleList, tokens: dict[str, Tensor], condition: Tensor) -> Tensor:
        tokens[self.slot_layer] = tokens[self.slot_layer] + self.condition(condition)
        h = torch.cat(list(tokens.values()), dim=1)
        for block in blocks:
            h = block(h)
        return h


def kl_to_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)) of each row (B,), in closed form."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(-1)
