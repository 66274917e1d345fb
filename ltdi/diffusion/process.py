"""The vanilla and the trajectory diffusion process, neighbours that differ in one line: ``target``.

A process says which recorded point w_i a state x_t is trained toward. All else is shared: the forward
law of the sub-chain that ends at w_i, the conversion between what the denoiser predicts and ε_φ, and
Theorem 1's loss. Equation numbers are the paper's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.diffusion.schedule import Schedule


def uniform_index_map(length: int, T: int) -> Tensor:
    """k(i) = i·T/n (equation 3) for the points i = 0 … n, rounded where n does not divide T: (P,).

    Raises:
        ValueError: fewer diffusion steps than segments, so that two points would share a time.
    """
    n = length - 1
    if n > T:
        raise ValueError(f"T = {T} diffusion steps cannot hold the {n} segments of a trajectory of {length} points")
    return torch.tensor([round(i * T / n) for i in range(length)])


class VanillaProcess(nn.Module):
    """Lv-Di: DDPM, every state is trained toward the trained head w_0.

    What the formulas make of the schedule stands in tables, so that a state looks it up at once: ``given`` (T+1, P, 3)
    of time t and point i, ``toward`` (T+1, 3) of time t and the point of ``target``, ``before`` (T+1, 2) the first two
    of time t − 1 in the same sub-chain, and ``posterior_std`` (T+1,), the deviation of x_{t−1} there, 0 on arrival at
    its end, t = k + 1.
    """

    corrected = True
    k: Tensor
    given: Tensor
    toward: Tensor
    before: Tensor
    posterior_std: Tensor

    @staticmethod
    def index_map(length: int, T: int) -> Tensor:
        """k(i) of the points that the process knows: here w_0 and the noise, whatever lies between them."""
        return uniform_index_map(2, T)

    def __init__(self, schedule: Schedule, k: Tensor) -> None:
        super().__init__()
        self.schedule = schedule
        self.register_buffer("k", k, persistent=False)
        t, at = torch.arange(schedule.T + 1), torch.arange(1, schedule.T + 1)
        self.register_buffer("given", self._given(t[:, None], k), persistent=False)
        i = self.target(t.clamp_min(1))
        self.register_buffer("toward", self.given[t, i], persistent=False)
        before, now = schedule.alpha_bar_given(at - 1, k[i[1:]]), schedule.alpha_bar_given(at, k[i[1:]])
        roots = torch.stack([before.sqrt(), (1 - before).sqrt()], -1)
        self.register_buffer("before", F.pad(roots, (0, 0, 1, 0)), persistent=False)
        std = ((1 - schedule.alpha[1:]) * (1 - before) / (1 - now)).sqrt()
        self.register_buffer("posterior_std", F.pad(std, (1, 0)), persistent=False)

    def _given(self, t: Tensor, k: Tensor) -> Tensor:
        """√ᾱ_{t|k}, √(1 − ᾱ_{t|k}) and √((1 − ᾱ_t)/(1 − ᾱ_{t|k})), Theorem 1's correction: (…, 3)."""
        a, a_bar = self.schedule.alpha_bar_given(t, k), self.schedule.alpha_bar[t]
        correction = ((1 - a_bar) / (1 - a)).sqrt() if self.corrected else torch.ones_like(a)
        return torch.stack([a.sqrt(), (1 - a).sqrt(), correction], -1)

    def target(self, t: Tensor) -> Tensor:
        """The index i of the point that a state at time t (B,), 1 <= t <= T, moves toward."""
        return torch.zeros_like(t)

    def draw_target(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """The index of the point that a state at time t is trained toward in this draw."""
        return self.target(t)

    # -- forward -------------------------------------------------------------------------------

    def sample(self, w_i: Tensor, t: Tensor, i: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_{t|k}·w_i + √(1 − ᾱ_{t|k})·ε with k = k(i); w_i and noise (B, D)."""
        root_a, root_rest, _ = self.given[t, i].split(1, -1)
        return root_a * w_i + root_rest * noise

    # -- what the denoiser says, as ε_φ or as the point it points at ----------------------------

    def epsilon(self, output: Tensor, x_t: Tensor, t: Tensor, prediction: str) -> Tensor:
        """The denoiser's output, read as ``prediction``, as the ε_φ of equation 1.

        "epsilon" is the paper's. "weights", "residual" and "v" predict the end w of the sub-chain of
        ``target(t)``, w − x_t, and the velocity along it; Theorem 1 read backwards turns them into ε_φ.
        """
        if prediction == "epsilon":
            return output
        root_a, root_rest, correction = self.toward[t].split(1, -1)
        w = {
            "weights": lambda: output,
            "residual": lambda: x_t + output,
            "v": lambda: root_a * x_t - root_rest * output,
        }[prediction]()
        # (x_t − √a·w)/√(1 − a) is the noise of the sub-chain, times √((1 − ᾱ_t)/(1 − a)) from Theorem 1
        return correction * (x_t - root_a * w) / root_rest

    def linear_guess(self, prediction: str) -> Tensor:
        """The factor g_t (T+1,) by which x_t is the best linear guess of what the denoiser is to predict, where weights
        and noise are of variance 1: ŵ = √ᾱ_{t|k}·x_t. 0 at t = 0, which is never asked for."""
        root_a, root_rest, correction = self.toward.unbind(-1)
        guess = {
            "epsilon": correction * root_rest,
            "weights": root_a,
            "residual": root_a - 1,
            "v": torch.zeros_like(root_a),
        }[prediction]
        return torch.cat([torch.zeros_like(guess[:1]), guess[1:]])

    def endpoint(self, epsilon: Tensor, x_t: Tensor, t: Tensor, i: Tensor) -> Tensor:
        """The w_i at which ε_φ points from x_t: the inverse of ``epsilon`` for "weights" (B, D)."""
        root_a, root_rest, correction = self.given[t, i].split(1, -1)
        return (x_t - root_rest / correction * epsilon) / root_a

    # -- loss ------------------------------------------------------------------------------------

    def loss(
        self,
        epsilon: Tensor,
        x_t: Tensor,
        t: Tensor,
        i: Tensor,
        w_i: Tensor,
        weighting: str,
        shares: Tensor | float = 1.0,
    ) -> Tensor:
        """How far ε_φ points from w_i, a task (B,); the squares of the D numbers count by their ``shares`` (D,), 1 in
        the mean.

        "theorem" is ‖√(1−ᾱ_{t|k})·ε_φ − √(1−ᾱ_t)·ε‖²/D: Theorem 1's loss, times the factor that keeps
        it bounded at t = k + 1. "weights" is ‖ŵ_i − w_i‖²/D. For each (t, i) both have the same
        minimiser, and both hold for any x_t, drawn or visited, with ε = (x_t − √ᾱ_{t|k}·w_i)/√(1 − ᾱ_{t|k}).
        """
        if weighting == "weights":
            return (shares * (self.endpoint(epsilon, x_t, t, i) - w_i).square()).mean(-1)
        root_a, root_rest, correction = self.given[t, i].split(1, -1)
        noise = (x_t - root_a * w_i) / root_rest
        return (shares * (root_rest * (epsilon - correction * noise)).square()).mean(-1)


class TrajectoryProcess(VanillaProcess):
    """Lt-Di: every state is trained toward the nearest recorded point below it, k(i) < t <= k(i+1) (equation 2)."""

    index_map = staticmethod(uniform_index_map)

    def target(self, t: Tensor) -> Tensor:
        return torch.searchsorted(self.k, t) - 1


class LocalConsistencyProcess(TrajectoryProcess):
    """Mc-Di, the authors' successor: toward every recorded point below, one drawn at a time; the mean is the average.

    Where several points are possible from a state, what minimises the loss is their weighted mean, so the
    chain need not pass through each.
    """

    def draw_target(self, t: Tensor, generator: torch.Generator) -> Tensor:
        n_below = self.target(t) + 1
        u = torch.rand(t.shape, generator=generator, device=generator.device).to(t.device)
        return (u * n_below).long()


class NaiveLocalProcess(TrajectoryProcess):
    """A baseline: DDPM's loss on each segment without Theorem 1's correction. Its chain
    reaches w_0, on whose segment the correction is 1, and misses every point on the way."""

    corrected = False
