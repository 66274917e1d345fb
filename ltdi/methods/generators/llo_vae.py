"""LLO-VAE, a conditional VAE of trained heads: the ablation of Lt-Di without diffusion (the paper's Table 1, C1 alone).

A variational auto-encoder (Kingma & Welling 2014, "Auto-Encoding Variational Bayes") of trained heads x_0, given the
support set, replaces the diffusion; it is meta-trained by REPTILE in the same way. The head of a new task is decoded
from a draw of the prior.

The paper gives only the name; here
- encoder and decoder are built of the transformer denoiser's blocks with its conditioning, with a latent per token;
- the decoder's variance is the hyperparameter β: the bound is that of x ~ N(decoder(z), β I), times 2β/D, which makes
  it a squared error and a KL;
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

MAX_LOG_VAR = 20.0
"""Upper bound of the posterior's log variance."""


class LloVae(ReptileTrainedMethod):
    """Conditional VAE of trained heads in coordinates x, meta-trained by REPTILE.

    Args:
        setup: sizes of encoder and decoder are those of the denoiser; ``meta.weight_loss`` is the coefficient of the
            bound.
        latent: numbers of z per token.
        beta: weight of the KL: the decoder's variance in x.
        temperature: scale of the prior's draws at generation; 1 draws from the prior, 0 takes its mean.
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
        """Decode weights (B, D) from a draw of the prior, the same for all tasks."""
        # the same draw, so that a task's weights do not depend on the other tasks of the batch
        z = self.temperature * torch.randn(
            1, *self.vae.latent_shape(context.n_way), generator=generator, device=generator.device
        ).to(centre)
        return self.to_w(self.vae.decode(z.expand(len(centre), -1, -1), context.rows, context.present), centre)

    def draw_inputs(self, task: Task, points: Tensor | None, stream: torch.Generator) -> dict[str, Any]:
        """Draw latents of the prior, with support and query set; for recorded tasks also x_0 and posterior noise."""
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
        """Return query_loss × the query loss of a generated head, plus weight_loss × the negative bound: (B,).

        The bound is that of recorded tasks only.
        """
        phi = {name.removeprefix("vae."): value for name, value in phi.items()}
        support = batch["rows"], batch["present"]
        x = functional_forward(self.vae, phi, None, self.temperature * batch["z"], *support)
        loss = self.meta.query_loss * self.learner.loss(self.to_w(x, batch["centre"]), batch["query"])
        if "x_0" in batch:
            coordinate_weights = self.coordinate_weights(batch["x_0"].shape[-1])
            error, kl = functional_forward(self.vae, phi, batch["x_0"], batch["noise"], *support, coordinate_weights)
            loss = loss + self.meta.weight_loss * (error + self.beta * 2 / batch["x_0"].shape[-1] * kl)
        return loss

    @torch.no_grad()
    def validate(self, val: TaskSource, trajectories: Trajectories, *, seed: int) -> dict[str, float]:
        """Return the mean squared reconstruction error of trained heads, ``val_loss_w0``, and the KL, ``val_kl``."""
        stream, found = named_generator(seed, "validate"), []
        for tasks in batches(len(val)):
            batch = self.draw_inputs(val.batch(tasks), trajectories.points(tasks), stream)
            found.append(torch.stack(self.vae(*(batch[name] for name in ("x_0", "noise", "rows", "present")))))
        error, kl = torch.cat(found, 1).mean(1).tolist()
        return {"val_loss_w0": error, "val_kl": kl}


class Vae(nn.Module):
    """Encoder and decoder between vectors x (B, D) and latents z (B, L, latent), L tokens, given the support set.

    Args:
        space: layout of the weight vectors.
        n_features: numbers F of a support row.
        latent: numbers of z per token.
        width, depth, heads, dropout: of both transformers.
        neurons_a_token: at most so many neurons per token.
        condition: "mean" or "attention", the kind of ``SupportEncoder``.
        linear_map: whether ``LinearMap`` is added to the decoder's output.
    """

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

    def token_counts(self, n_way: int) -> list[int]:
        """Return the number of tokens of each layer."""
        return [
            n_way if neurons is None else neurons // group
            for neurons, group in zip(self.tokenizer.space.neurons.values(), self.tokenizer.groups)
        ]

    def latent_shape(self, n_way: int) -> tuple[int, int]:
        """Return (L, latent), the shape of a task's z."""
        return sum(self.token_counts(n_way)), self.latent_numbers

    def encode(self, x: Tensor, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z | x), (B, L, latent) each.

        Args:
            x: vectors (B, D).
            features: support features (B, N, K, F).
            present: 1 for a row, 0 for padding (B, N, K).
        """
        h = self._through(self.encoder, self.tokenizer.tokenize(x[:, None]), features, present)
        mean, log_var = self.posterior(h).chunk(2, dim=-1)
        # for x far from the trained heads the variance would overflow
        return mean, log_var.clamp(max=MAX_LOG_VAR)

    def decode(self, z: Tensor, features: Tensor, present: Tensor) -> Tensor:
        """Decode z (B, L, latent) into x (B, D), given features (B, N, K, F) and ``present`` (B, N, K)."""
        layers, lengths = self.tokenizer.space.layers, self.token_counts(features.shape[-3])
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
        """Return reconstruction error (B,) and KL (B,) of x, or, without x, the decoded noise (B, D).

        Args:
            x: vectors (B, D), or None.
            noise: of the posterior's draw, or z itself (B, L, latent).
            features: support features (B, N, K, F).
            present: 1 for a row, 0 for padding (B, N, K).
            coordinate_weights: factors of the squared coordinates (D,), 1 in the mean.
        """
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
    """Return KL(N(mean, exp(log_var)) ‖ N(0, I)) of each task (B,), in closed form."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(-1)
