"""OCD: diffusion of the difference between a base network and its overfitted weights, with a predicted scale.

Lutati & Wolf 2023, "OCD: Learning to Overfit with Conditional Diffusion Models", ICML. The difference h = w_0 − base is
divided by its scale, so that the diffusion models directions of unit size; a second network predicts the scale from the
same conditioning.

As published: the difference is normalised for each task, its scale is predicted separately, only the difference is
generated and added to the base. Differences:
- the base is the initialization and may depend on the task; it was one trained network;
- the conditioning is the support set; it was a single input with the base's activations and output;
- all layers change, each with its own scale; it was one selected layer;
- log-scales are trained by squared error around their training mean; it was a relative error after a sigmoid;
- schedule, prediction, steps and denoiser are those of all diffusion methods here. Published: ε, β from 1e-6 to 1e-2
  over 1,000 steps, the U-Net of DDPM, 10 DDIM steps at generation;
- meta.query_loss through the generated head, and losses on on-policy states; it had the weight loss on states of the
  forward process only.
"""

import torch
from torch import Tensor, nn

from ltdi.diffusion import sampler
from ltdi.diffusion.process import VanillaProcess
from ltdi.initialization import Initialization
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import TrainedMethod
from ltdi.tasks.base import Context, Task, TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.nn import Standardise, masked_mean, zero


class Ocd(TrainedMethod):
    """Generate w = base + scale·x: x (B, D) is sampled by diffusion, the scale is predicted for each layer.

    Args:
        setup: uses the sections ``diffusion``, without gradient_input, and ``denoiser``.
        scale_width: width of the network that predicts the scale.
    """

    mean_log_scale: Tensor
    """Mean of the training tasks' log-scales (layers,)."""

    def __init__(self, initialization: Initialization, setup: Setup, *, scale_width: int) -> None:
        super().__init__(initialization, setup)
        self.fixed_n_way |= setup.fixed_n_way
        self.diffusion = diffusion = setup.diffusion
        T = diffusion.steps
        self.process = VanillaProcess(setup.schedule, VanillaProcess.index_map(2, T))
        self.denoiser = setup.network(self.learner)
        self.scale_network = ScaleNetwork(self.learner.n_numbers, scale_width, len(self.space.layers))
        self.register_buffer("mean_log_scale", torch.zeros(len(self.space.layers)))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit the input standardisation and the mean log-scales on the train tasks."""
        self.standardise(train)
        total = torch.zeros_like(self.mean_log_scale)
        for tasks in batches(len(train)):
            centre = self.initialization.centre(train.context(tasks))
            total += self.normalise(trajectories.trained(tasks).to(centre) - centre)[1].sum(0)
        self.mean_log_scale.copy_(total / len(train))

    # -- a difference as a normalised direction and its log-scales ---------------------------------

    def normalise(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Split a difference (B, D) into x (B, D), of unit root mean square per layer, and log-scales (B, layers)."""
        layers = self.space.tokens(difference).values()
        log_scale = torch.stack([part.square().mean((-2, -1)).sqrt().clamp_min(1e-8).log() for part in layers], -1)
        return difference / self.spread(log_scale, difference.shape[-1]), log_scale

    def spread(self, log_scale: Tensor, dim: int) -> Tensor:
        """Expand log-scales (B, layers) to factors of vectors of ``dim`` numbers (B, D)."""
        return self.space.spread(log_scale.exp(), dim)

    def predict_log_scale(self, context: Context) -> Tensor:
        """Predict the log-scales (B, layers) from the support set."""
        return self.mean_log_scale + self.scale_network(context.rows, context.present)

    # -- sampling ----------------------------------------------------------------------------------

    def epsilon(self, x_t: Tensor, t: Tensor, context: Context) -> Tensor:
        """Predict ε_φ(x_t, t, c) (B, D) at states x_t (B, D) and times t (B,), given the context c."""
        return self.process.epsilon(
            self.denoiser(x_t[:, None], t, context.rows, context.present), x_t, t, self.diffusion.prediction
        )

    def propose(self, context: Context, base: Tensor, *, generator: torch.Generator) -> Tensor:
        """Sample x from noise and return base + scale·x (B, D); all tasks share the noise."""
        x_T, noise = (draw.to(base) for draw in self._draw_noise(1, base.shape[-1], generator))
        *_, (_, x_0, _) = sampler.denoise(
            self.process, lambda x_t, t: self.epsilon(x_t, t, context), x_T.expand_as(base), noise
        )
        return base + self.spread(self.predict_log_scale(context), base.shape[-1]) * x_0

    def _draw_noise(self, n: int, dim: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x_T (n, dim) and the noise of the denoising steps (T, n, dim)."""
        draws = torch.randn(self.process.schedule.T + 1, n, dim, generator=stream, device=stream.device)
        return self.diffusion.start_noise * draws[0], self.diffusion.chain_noise * draws[1:]

    # -- meta-training -----------------------------------------------------------------------------

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Return the query loss of each task and, for recorded tasks, the losses of x and of the log-scales: (B,)."""
        context, base = task.context, self.initialization.centre(task.context)
        predicted, total = self.predict_log_scale(context), torch.zeros_like(base[:, 0])
        on_policy = 1.0 if points is None else self.diffusion.on_policy
        if points is not None:
            x_0, log_scale = self.normalise(points[:, 0].to(base) - base)
            total = total + self.meta.weight_loss * (predicted - log_scale).square().mean(-1)

        def loss_at(x_t: Tensor, t: Tensor) -> Tensor:
            i, epsilon = self.process.target(t), self.epsilon(x_t, t, context)
            w = base + self.spread(predicted, base.shape[-1]) * self.process.endpoint(epsilon, x_t, t, i)
            loss = self.meta.query_loss * self.learner.loss(w, task.query)
            if points is not None:
                loss = loss + self.meta.weight_loss * self.process.loss(
                    epsilon, x_t, t, i, x_0, self.diffusion.weighting
                )
            return loss

        x_T, chain_noise = (draw.to(base) for draw in self._draw_noise(len(base), base.shape[1], stream))
        if on_policy < 1:
            t = torch.randint(1, self.process.schedule.T + 1, (len(base),), generator=stream).to(base.device)
            noise = torch.randn(base.shape, generator=stream).to(base)
            total = total + (1 - on_policy) * loss_at(self.process.sample(x_0, t, self.process.target(t), noise), t)
        if on_policy > 0:
            visit = int(torch.randint(1, self.process.schedule.T + 1, (), generator=stream))
            with torch.no_grad():  # no gradient through the sampler
                *_, (t, x_t, _) = sampler.denoise(
                    self.process, lambda x_t, t: self.epsilon(x_t, t, context), x_T, chain_noise, until=visit
                )
            total = total + on_policy * loss_at(x_t, t)
        return total


class ScaleNetwork(nn.Module):
    """Predict log-scales (B, layers) from the support set: an MLP on each row, then one on the mean over rows.

    Args:
        n_features: F.
        width: of both MLPs.
        n_layers: number of layers.
    """

    def __init__(self, n_features: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.standardise = Standardise(n_features)
        self.image = nn.Sequential(nn.Linear(n_features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.task = nn.Sequential(nn.Linear(width, width), nn.SiLU(), zero(nn.Linear(width, n_layers)))

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Map features (B, N, K, F), ``present`` (B, N, K) 1 for a row and 0 for padding, to (B, layers)."""
        return self.task(masked_mean(self.image(self.standardise(features)), present).mean(1))
