"""The vanilla and the trajectory diffusion process; they differ in one method, ``target``.

A process defines toward which recorded point w_i a state x_t is trained. All else is shared: the forward
law of the sub-chain that ends at w_i, the conversion between the denoiser's prediction and ε_φ, and
Theorem 1's loss. Equation numbers are those of the Lt-Di paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.diffusion.schedule import Schedule


def uniform_index_map(length: int, T: int) -> Tensor:
    """Return the diffusion times k(i) = i·T/n (equation 3) of the recorded points i = 0 … n, rounded to integers: (P,).

    Args:
        length: number of recorded points P = n + 1.
        T: number of diffusion steps.

    Raises:
        ValueError: fewer diffusion steps than segments, so that two points would share a time.
    """
    n = length - 1
    if n > T:
        raise ValueError(f"T = {T} diffusion steps cannot hold the {n} segments of a trajectory of {length} points")
    return torch.tensor([round(i * T / n) for i in range(length)])


class VanillaProcess(nn.Module):
    """The process of Lv-Di: DDPM, every state is trained toward the trained head w_0.

    Args:
        schedule: the decay schedule over T steps.
        k: diffusion times of the recorded points (P,), from ``index_map``.
    """

    corrected = True
    """Whether targets on inner segments carry the correction of Theorem 1."""

    k: Tensor
    """Diffusion times k(i) of the recorded points (P,)."""
    point_factors: Tensor
    """√ᾱ_{t|k}, √(1 − ᾱ_{t|k}) and Theorem 1's correction, by time t and point i: (T+1, P, 3)."""
    target_factors: Tensor
    """The same by time t alone, at the point ``target(t)``: (T+1, 3)."""
    previous_factors: Tensor
    """√ᾱ_{t−1|k}, √(1 − ᾱ_{t−1|k}) in the sub-chain of time t: (T+1, 2)."""
    posterior_std: Tensor
    """Standard deviation of x_{t−1} given x_t and the end of the sub-chain: (T+1,); 0 at t = k + 1."""

    @staticmethod
    def index_map(length: int, T: int) -> Tensor:
        """Return the times of the points that the process uses: here w_0 and the noise only, (0, T).

        Args:
            length: number of recorded points P.
            T: number of diffusion steps.
        """
        return uniform_index_map(2, T)

    def __init__(self, schedule: Schedule, k: Tensor) -> None:
        super().__init__()
        self.schedule = schedule
        self.register_buffer("k", k, persistent=False)
        t, at = torch.arange(schedule.T + 1), torch.arange(1, schedule.T + 1)
        self.register_buffer("point_factors", self._factors(t[:, None], k), persistent=False)
        i = self.target(t.clamp_min(1))
        self.register_buffer("target_factors", self.point_factors[t, i], persistent=False)
        before, now = schedule.alpha_bar_given(at - 1, k[i[1:]]), schedule.alpha_bar_given(at, k[i[1:]])
        roots = torch.stack([before.sqrt(), (1 - before).sqrt()], -1)
        self.register_buffer("previous_factors", F.pad(roots, (0, 0, 1, 0)), persistent=False)
        std = ((1 - schedule.alpha[1:]) * (1 - before) / (1 - now)).sqrt()
        self.register_buffer("posterior_std", F.pad(std, (1, 0)), persistent=False)

    def _factors(self, t: Tensor, k: Tensor) -> Tensor:
        """Return √ᾱ_{t|k}, √(1 − ᾱ_{t|k}) and √((1 − ᾱ_t)/(1 − ᾱ_{t|k})), Theorem 1's correction: (…, 3)."""
        a, a_bar = self.schedule.alpha_bar_given(t, k), self.schedule.alpha_bar[t]
        correction = ((1 - a_bar) / (1 - a)).sqrt() if self.corrected else torch.ones_like(a)
        return torch.stack([a.sqrt(), (1 - a).sqrt(), correction], -1)

    def target(self, t: Tensor) -> Tensor:
        """Return the index i (B,) of the recorded point that a state at time t (B,), 1 <= t <= T, moves toward."""
        return torch.zeros_like(t)

    def draw_target(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the index i (B,) of the recorded point that a state at time t (B,) is trained toward."""
        return self.target(t)

    # -- forward -------------------------------------------------------------------------------

    def sample(self, w_i: Tensor, t: Tensor, i: Tensor, noise: Tensor) -> Tensor:
        """Sample the forward process: x_t = √ᾱ_{t|k}·w_i + √(1 − ᾱ_{t|k})·ε (B, D), k = k(i).

        Args:
            w_i: recorded points (B, D).
            t: times (B,).
            i: indices of these points (B,).
            noise: ε (B, D).
        """
        root_a, root_rest, _ = self.point_factors[t, i].split(1, -1)
        return root_a * w_i + root_rest * noise

    # -- the denoiser's prediction as ε_φ, and the point that ε_φ implies -------------------------

    def epsilon(self, output: Tensor, x_t: Tensor, t: Tensor, prediction: str) -> Tensor:
        """Convert the denoiser's output (B, D) into the ε_φ (B, D) of equation 1.

        Args:
            output: what the denoiser predicts (B, D).
            x_t: states (B, D).
            t: times (B,).
            prediction: "epsilon" is the paper's. "weights", "residual" and "v" predict the end w of the sub-chain
                of ``target(t)``, w − x_t, and the velocity along it; Theorem 1, inverted, turns them into ε_φ.
        """
        if prediction == "epsilon":
            return output
        root_a, root_rest, correction = self.target_factors[t].split(1, -1)
        w = {
            "weights": lambda: output,
            "residual": lambda: x_t + output,
            "v": lambda: root_a * x_t - root_rest * output,
        }[prediction]()
        # (x_t − √a·w)/√(1 − a) is the noise of the sub-chain, times √((1 − ᾱ_t)/(1 − a)) from Theorem 1
        return correction * (x_t - root_a * w) / root_rest

    def linear_estimate(self, prediction: str) -> Tensor:
        """Return factors g_t (T+1,) of the best linear estimate g_t·x_t of the denoiser's target.

        For weights and noise of variance 1, ŵ = √ᾱ_{t|k}·x_t. 0 at t = 0, which no state has. ``prediction`` is that
        of ``epsilon``.
        """
        root_a, root_rest, correction = self.target_factors.unbind(-1)
        guess = {
            "epsilon": correction * root_rest,
            "weights": root_a,
            "residual": root_a - 1,
            "v": torch.zeros_like(root_a),
        }[prediction]
        return torch.cat([torch.zeros_like(guess[:1]), guess[1:]])

    def endpoint(self, epsilon: Tensor, x_t: Tensor, t: Tensor, i: Tensor) -> Tensor:
        """Return the point ŵ_i (B, D) that ε_φ implies at x_t: the inverse of ``epsilon`` for "weights"."""
        root_a, root_rest, correction = self.point_factors[t, i].split(1, -1)
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
        coordinate_weights: Tensor | float = 1.0,
    ) -> Tensor:
        """Return the weight loss of each task (B,): how far ε_φ is from pointing at the recorded point w_i.

        For each (t, i) both weightings have the same minimiser, and both hold for any x_t, from the forward process
        or on-policy, with ε = (x_t − √ᾱ_{t|k}·w_i)/√(1 − ᾱ_{t|k}).

        Args:
            epsilon: ε_φ(x_t, t) (B, D).
            x_t: states (B, D).
            t: times (B,).
            i: indices of the recorded points (B,).
            w_i: these points (B, D).
            weighting: "theorem" is ‖√(1−ᾱ_{t|k})·ε_φ − √(1−ᾱ_t)·ε‖²/D, Theorem 1's loss times the factor that keeps
                it bounded at t = k + 1; "weights" is ‖ŵ_i − w_i‖²/D.
            coordinate_weights: factors of the squared coordinates (D,), 1 in the mean.
        """
        if weighting == "weights":
            return (coordinate_weights * (self.endpoint(epsilon, x_t, t, i) - w_i).square()).mean(-1)
        root_a, root_rest, correction = self.point_factors[t, i].split(1, -1)
        noise = (x_t - root_a * w_i) / root_rest
        return (coordinate_weights * (root_rest * (epsilon - correction * noise)).square()).mean(-1)


class TrajectoryProcess(VanillaProcess):
    """The process of Lt-Di: states are trained toward the next recorded point w_i, k(i) < t <= k(i+1) (equation 2)."""

    index_map = staticmethod(uniform_index_map)

    def target(self, t: Tensor) -> Tensor:
        """Return the index i (B,) of the segment k(i) < t <= k(i+1) that holds t (B,)."""
        return torch.searchsorted(self.k, t) - 1


class LocalConsistencyProcess(TrajectoryProcess):
    """The process of Mc-Di, the authors' successor: one of the recorded points below t is drawn as the target.

    The minimiser of the loss is then a weighted mean of these points, so that the sampling trajectory need not pass
    through each.
    """

    def draw_target(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draw i (B,) uniformly among the recorded points with k(i) < t (B,)."""
        n_below = self.target(t) + 1
        u = torch.rand(t.shape, generator=generator, device=generator.device).to(t.device)
        return (u * n_below).long()


class NaiveLocalProcess(TrajectoryProcess):
    """The process of the baseline ``naive_local``: DDPM's loss on each segment, without Theorem 1's correction.

    Its sampling trajectory reaches w_0, on whose segment the correction is 1, and misses the recorded points between.
    """

    corrected = False
