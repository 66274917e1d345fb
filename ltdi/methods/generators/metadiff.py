"""MetaDiff: gradient descent on a classifier's class weights, modelled as the denoising of these weights.

Zhang, Luo, Yu, Li, Lin, Ye & Zhang 2024, "MetaDiff: Meta-Learning with Conditional Diffusion for Few-Shot Learning",
AAAI. ε_φ is the gradient of the support loss at x_t, corrected by a small network. The classifier is one row of F
numbers per class, written into the learner's weights in closed form.

As published: the class weights are diffused, in the units of the features, from N(0, I) over 1,000 steps with DDPM's
linear schedule; targets are the class means of all images; the support loss is ‖x_n − f‖² of a class's images to its
row; the network is U-shaped, works on each class alone, and its layers are gated by the time. Differences:
- the support loss is averaged over a class's images, so that n_shot does not change the step size; it was summed;
- the gradient's coefficient η(t) is learned, from 1; it was 1;
- the network also gets the class mean, so that the correction may depend on the class; its input was the gradient
  alone. Its last layer is initialized with zero;
- the sampler, DDPM's mean without noise, uses few of the times, so that meta.query_loss can be differentiated through
  it; it used all of them, and the ε-loss was the only loss;
- the cosine classifier as published, but for the division by the norm of the image's features, which a linear head
  cannot express and no prediction depends on; its temperature is therefore calibrated on meta-val instead of 10. An
  alternative is the nearest-mean classifier.

Classes do not interact, and the gradient vanishes at the class means of the support set: untrained, it generates
nearly these (cosine similarity above 0.99). It is a prototype classifier with a learned correction.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.diffusion import sampler
from ltdi.diffusion.process import VanillaProcess
from ltdi.diffusion.schedule import Schedule, linear
from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import Scalar, calibrated_temperature, linear_classifier, prototype_weights
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import MetaBatch
from ltdi.tasks.base import Context, Task, TaskSource
from ltdi.tasks.class_tasks import ClassTasks
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.errors import InputError
from ltdi.utils.nn import TimeEmbedding, zero
from ltdi.utils.seeding import generator as named_generator
from ltdi.utils.trainer import Row, Training


class MetaDiff(Method):
    """Diffusion of the class weights x (B, N·F).

    Args:
        setup: ``meta.weight_loss`` is the coefficient of the ε-loss, which new tasks have as well.
        diffusion_steps: diffusion steps T.
        sampling_steps: denoising steps at generation; T of them are the published sampler.
        classifier: how class weights become a head, "cosine" or "distance".
        width: of the narrow part of the network; the outer layers have twice as much.

    Raises:
        InputError: more sampling steps than diffusion steps.
    """

    needs = ("head", "examples")
    times: Tensor
    """The diffusion times of the denoising steps (sampling_steps + 1,)."""
    temperature: Tensor
    """Scale of the logits, calibrated on meta-val."""

    def __init__(
        self,
        initialization: Initialization,
        setup: Setup,
        *,
        diffusion_steps: int,
        sampling_steps: int,
        classifier: str,
        width: int,
    ) -> None:
        super().__init__(initialization, setup)
        if sampling_steps > diffusion_steps:
            raise InputError(
                f"methods.metadiff.sampling_steps = {sampling_steps} is more than its diffusion_steps ="
                f" {diffusion_steps}; lower it"
            )
        self.head = linear_classifier(self.learner, "metadiff")
        self.meta, self.classifier = setup.meta.model_copy(update={"recorded_tasks": 0}), classifier
        self.process = _process(linear(diffusion_steps, max_beta=0.999).alpha)
        times = torch.linspace(0, diffusion_steps, sampling_steps + 1).round().long()
        alpha_bar = self.process.schedule.alpha_bar[times]
        self.sampling = _process(torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]]))
        self.register_buffer("times", times, persistent=False)
        self.denoiser = LearnedGradient(self.learner.n_numbers, width, diffusion_steps)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Calibrate the temperature on meta-val with class means as class weights."""
        temperature, _ = calibrated_temperature(self.head, val, lambda context: self.to_head(context.means, 1.0))
        self.temperature.fill_(temperature)

    def to_head(self, rows: Tensor, temperature: Scalar) -> Tensor:
        """Write class weights (B, N, F) into the learner's weights (B, D)."""
        if self.classifier == "distance":
            return prototype_weights(self.head, rows, temperature)
        return self.head.linear(temperature * F.normalize(rows, dim=-1), rows.new_zeros(rows.shape[:2]))

    # -- sampling ----------------------------------------------------------------------------------

    def epsilon(self, x_t: Tensor, t: Tensor, context: Context) -> Tensor:
        """Predict ε_φ(x_t, t, S) (B, N·F) at states x_t (B, N·F) and times t (B,), given the support set S."""
        means = context.means
        return self.denoiser(support_gradient(x_t.view_as(means), means), means, t).flatten(1)

    def denoise(self, x_T: Tensor, context: Context) -> Tensor:
        """Denoise x_T (B, N·F) to x_0 (B, N·F) over ``times``."""
        *_, (_, x_0, _) = sampler.denoise(self.sampling, lambda x_t, t: self.epsilon(x_t, self.times[t], context), x_T)
        return x_0

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Sample class weights from noise, the same for all tasks, and write them as a head (B, D)."""
        means = context.means
        x_T = torch.randn(1, *means.shape[1:], generator=generator, device=generator.device).to(means)
        return self.to_head(self.denoise(x_T.expand_as(means).flatten(1), context).view_as(means), self.temperature)

    # -- meta-training -----------------------------------------------------------------------------

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train on new tasks, with the class means of all images as targets."""
        assert isinstance(train, ClassTasks)
        means_of_all = train.of.means()
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            batch = MetaBatch.draw(train, self.meta, stream)
            ((task, _),) = batch.parts(train, trajectories, self.meta, stream)
            loss = self.loss(task, means_of_all[batch.names].flatten(1), stream).mean()
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.detach()}

    def loss(self, task: Task, x_0: Tensor, stream: torch.Generator) -> Tensor:
        """Return the ε-loss, plus the query loss through the sampler, of each task (B,); targets x_0 (B, N·F)."""
        t = torch.randint(1, self.process.schedule.T + 1, (len(x_0),), generator=stream).to(x_0.device)
        noise, x_T = torch.randn(2, *x_0.shape, generator=stream).to(x_0)
        x_t = self.process.sample(x_0, t, self.process.target(t), noise)
        loss = self.meta.weight_loss * (self.epsilon(x_t, t, task.context) - noise).square().mean(-1)
        if self.meta.query_loss > 0:
            rows = self.denoise(x_T, task.context).view_as(task.context.means)
            w = self.to_head(rows, self.temperature)
            loss = loss + self.meta.query_loss * self.head.loss(w, task.query)
        return loss


def _process(alpha: Tensor) -> VanillaProcess:
    return VanillaProcess(Schedule(alpha), VanillaProcess.index_map(2, len(alpha) - 1))


def support_gradient(rows: Tensor, means: Tensor) -> Tensor:
    """Return ∇L of the support loss L = Σ_n mean_k ‖x_n − f_nk‖² at rows x (B, N, F): (B, N, F).

    Args:
        rows: class weights x (B, N, F).
        means: means of the classes' support features (B, N, F).
    """
    return 2 * (rows - means)


class LearnedGradient(nn.Module):
    """The denoiser ε_φ = η(t)·∇L + u(∇L, c, t), class by class, with a learned factor η and a network u.

    Args:
        n_features: F.
        width: of the narrow part of u.
        steps: diffusion steps T.
    """

    def __init__(self, n_features: int, width: int, steps: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(width, steps)
        self.coefficient = zero(nn.Linear(width, 1))
        self.narrow = _Gated(2 * n_features, 2 * width, width)
        self.narrower = _Gated(2 * width, width, width)
        self.middle = _Gated(width, width, width)
        self.wide = _Gated(width, 2 * width, width)
        self.out = zero(nn.Linear(2 * width, n_features))

    def forward(self, g: Tensor, means: Tensor, t: Tensor) -> Tensor:
        """Predict ε_φ (B, N, F) from ∇L ``g`` (B, N, F), class means c (B, N, F) and times t (B,)."""
        time = self.time(t)[:, None]
        first = self.narrow(torch.cat([g, means], dim=-1), time)
        second = self.narrower(first, time)
        h = self.middle(second, time) + second
        h = self.wide(h, time) + first
        return (1 + self.coefficient(time)) * g + self.out(h)


class _Gated(nn.Module):
    """Gated layer softplus(Ah · Bτ) of rows h (B, N, in) and the time embedding τ (B, 1, width)."""

    def __init__(self, width_in: int, width_out: int, width_time: int) -> None:
        super().__init__()
        self.row, self.gate = nn.Linear(width_in, width_out), nn.Linear(width_time, width_out)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        return F.softplus(self.row(h) * self.gate(time))
