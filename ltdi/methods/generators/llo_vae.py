"""LLO-VAE, the ablation of "Learning to Learn Weight Generation via Trajectory Diffusion" (Table 1, C1 alone): a
vanilla VAE of trained heads.

A variational auto-encoder (Kingma, Welling 2014, "Auto-Encoding Variational Bayes") of trained heads x_0, given the
support set, takes the diffusion's place in the same two loops of REPTILE. The head of a new task is decoded from a draw
of the prior.

Differences from the published form, of which the paper gives no more than the names above:
- Encoder and decoder are the transformer denoiser's blocks and see the condition as it does; each neuron token has a
  latent of its own.
- The decoder's variance is the hyperparameter β: the bound is that of x ~ N(decoder(z), β I), times 2β/D, which makes
it a
  squared error and a KL.
- ``meta.query_loss`` also trains the decoder through the head that it generates, as for every trained method here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.diffusion.denoiser import LinearMap, SupportEncoder, WeightTokenizer
from ltdi.initialization import Initialization
from ltdi.learners.weight_space import WeightSpace
from ltdi.meta_learning.reptile import Phi, functional_forward
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import ReptileTrainedMethod
from ltdi.tasks.base import Context, Task, TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.nn import TransformerBlock, masked_mean
from ltdi.utils.seeding import generator as named_generator

LARGEST_LOG_VAR = 20.0


class LloVae(ReptileTrainedMethod):
    """
    Args:
        setup: the denoiser's sizes are those of the encoder and of the decoder; weight_loss is the coefficient of
            the bound.
        latent: numbers of z a token.
        beta: the weight of the KL, which is the decoder's variance in units of the trained heads' distance from the
            start.
        temperature: the scale of the draws that heads are decoded from; 1 draws from the prior, 0 takes its mean.
    """

    def __init__(
        self, initialization: Initialization, setup: Setup, *, latent: int, beta: float, temperature: float
    ) -> None:
        super().__init__(initialization, setup)
        self.beta, self.temperature = beta, temperature
        self.vae = Vae(
            self.space,
            self.learner.n_numbers,
            latent=latent,
            **setup.denoiser.model_dump(exclude={"name", "skip"}),
        )

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        # all tasks decode the same draw, so that a task does not depend on its neighbours
        z = self.temperature * torch.randn(
            1, *self.vae.latent_shape(context.n_way), generator=generator, device=generator.device
        ).to(centre)
        return self.to_w(self.vae.decode(z.expand(len(centre), -1, -1), context.rows, context.present), centre)

    def draw(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        context, centre = task.context, self.initialization.centre(task.context)
        z = torch.randn(len(centre), *self.vae.latent_shape(context.n_way), generator=stream).to(centre)
        drawn = {
            "rows": context.rows,
            "present": context.present,
            "query": task.query,
            "centre": centre,
            "z": z,
        }
        if points is None:
            return drawn
        noise = torch.randn(z.shape, generator=stream).to(z)
        return drawn | {"x_0": self.to_x(points[:, 0].to(centre), centre), "noise": noise}

    def functional_loss(self, phi: Phi, batch: Mapping[str, Any]) -> Tensor:
        """query_loss × the query cross-entropy of a generated head, and of recorded tasks weight_loss × the negative
        bound: (B,)."""
        phi = {name.removeprefix("vae."): value for name, value in phi.items()}
        known = batch["rows"], batch["present"]
        x = functional_forward(self.vae, phi, None, self.temperature * batch["z"], *known)
        loss = self.meta.query_loss * self.learner.loss(self.to_w(x, batch["centre"]), batch["query"])
        if "x_0" in batch:
            coordinate_weights = self.coordinate_weights(batch["x_0"].shape[-1])
            error, kl = functional_forward(self.vae, phi, batch["x_0"], batch["noise"], *known, coordinate_weights)
            loss = loss + self.meta.weight_loss * (error + self.beta * 2 / batch["x_0"].shape[-1] * kl)
        return loss

    @torch.no_grad()
    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """How far off the trained heads are decoded from draws of their posterior, and what these say of them."""
        stream, found = named_generator(seed, "validate"), []
        for tasks in batches(len(val)):
            batch = self.draw(val.batch(tasks), trajectories.points(tasks), stream)
            found.append(torch.stack(self.vae(*(batch[name] for name in ("x_0", "noise", "rows", "present")))))
        error, kl = torch.cat(found, 1).mean(1).tolist()
        return {"val_loss_w0": error, "val_kl": kl}


class Vae(nn.Module):
    """Vectors x (B, D) given the support set, features (B, N, K, F) of which ``present`` are there <-> latents z (B, L,
    latent), a row a token."""

    def __init__(
        self,
        space: WeightSpace,
        n_features: int,
        *,
        latent: int,
        width: int,
        depth: int,
        heads: int,
        neurons_a_token: int,
        condition: str,
        dropout: float,
        linear_map: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = WeightTokenizer(space, 1, width, neurons_a_token)
        self.latent_numbers = latent
        self.condition = SupportEncoder(n_features, width, heads, condition, dropout)
        self.linear_map = LinearMap(space, n_features, 0) if linear_map and space.slot_layer else None
        self.encoder, self.decoder = (
            nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth)) for _ in range(2)
        )
        self.posterior = nn.Linear(width, 2 * latent)
        self.latent = nn.Linear(latent, width)

    def lengths(self, n_way: int) -> list[int]:
        """Tokens of each layer."""
        return [
            n_way if neurons is None else neurons // group
            for neurons, group in zip(self.tokenizer.space.neurons.values(), self.tokenizer.groups)
        ]

    def latent_shape(self, n_way: int) -> tuple[int, int]:
        return sum(self.lengths(n_way)), self.latent_numbers

    def encode(self, x: Tensor, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x) (B, L, latent)."""
        h = self._through(self.encoder, self.tokenizer.tokenize(x[:, None]), features, present)
        mean, log_var = self.posterior(h).chunk(2, dim=-1)
        # far from the trained heads x may be large, and the exponential of what is said of it overflows
        return mean, log_var.clamp(max=LARGEST_LOG_VAR)

    def decode(self, z: Tensor, features: Tensor, present: Tensor) -> Tensor:
        """(B, D)"""
        layers, lengths = self.tokenizer.space.layers, self.lengths(features.shape[-3])
        rows = zip(layers, self.latent(z).split(lengths, dim=1), self.tokenizer.place)
        h = self._through(self.decoder, {layer: row + place for layer, row, place in rows}, features, present)
        output = self.tokenizer.detokenize(dict(zip(layers, h.split(lengths, dim=1))))
        if self.linear_map is None:
            return output
        means = masked_mean(self.condition.standardise(features), present)
        return self.linear_map(output, means, torch.zeros(len(z), dtype=torch.long, device=z.device))

    def forward(
        self,
        x: Tensor | None,
        noise: Tensor,
        features: Tensor,
        present: Tensor,
        coordinate_weights: Tensor | float = 1.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The mean squared error of x decoded from its posterior (B,), whose numbers count by their ``shares`` (D,),
        and the posterior's KL (B,); without x the noise decoded (B, D)."""
        if x is None:
            return self.decode(noise, features, present)
        mean, log_var = self.encode(x, features, present)
        away = self.decode(mean + (log_var / 2).exp() * noise, features, present) - x
        return (coordinate_weights * away.square()).mean(-1), kl_to_prior(mean, log_var)

    def _through(self, blocks: nn.ModuleList, tokens: dict[str, Tensor], features: Tensor, present: Tensor) -> Tensor:
        tokens = self.tokenizer.add_conditioning(tokens, self.condition(features, present))
        h = torch.cat(list(tokens.values()), dim=1)
        for block in blocks:
            h = block(h)
        return h


def kl_to_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)) of each row (B,), in closed form."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(-1)
