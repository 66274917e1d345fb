"""Weight flow: flow matching along recorded training trajectories.

Lipman et al. 2023, "Flow Matching for Generative Modeling". Time s runs from 0, the initialization w_n, to 1, the
trained head w_0. Differences from the published form:
- the path is the recorded trajectory, its points at equal spacing and linear between them, and starts at the
  initialization; published is the straight line from noise;
- the target is the mean velocity from s to the end of the Euler step that contains s; published is the path's velocity
  at s. Both are equal where that step lies in one segment of the path, and Euler steps with the mean velocity end on
  the path for any number of steps;
- training also uses on-policy states of the integration: a state on the recorded path reveals the head that it leads
  to, which no state at generation does;
- the query loss is added, as for the diffusion methods.

In the code, time is u = steps·s, in units of Euler steps, so that its integer part is exact.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.gaussian import Fresh
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import TrainedMethod, unit_rms
from ltdi.tasks.base import Context, Task


class WeightFlow(TrainedMethod):
    """Generator that integrates a learned velocity field from the initialization.

    Args:
        steps: Euler steps of the generation.
        noise: standard deviation of Gaussian noise on the initialization, in x; at generation one draw for all tasks.
        on_policy: share of the loss on on-policy states; the rest is on the recorded path.
    """

    def __init__(
        self, initialization: Initialization, setup: Setup, *, steps: int, noise: float, on_policy: float
    ) -> None:
        super().__init__(initialization, setup)
        self.fixed_n_way |= setup.fixed_n_way
        self.steps, self.noise, self.on_policy = steps, noise, on_policy
        self.network = setup.network(self.learner, channels=1 + initialization.shown)

    def velocity(self, x: Tensor, u: Tensor, context: Context, centre: Tensor) -> Tensor:
        """Predict v_φ(x, u, c) = dx/du (B, D) at states x (B, D) and times u (B,), given context and centre (B, D)."""
        channels = [x, unit_rms(centre)] if self.initialization.shown else [x]
        return self.network(torch.stack(channels, 1), u, context.rows, context.present)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Integrate the velocity from the initialization by Euler steps: (B, D)."""
        x = self._begin(1, context.n_way, generator).expand_as(centre)
        *_, x = euler(lambda x, u: self.velocity(x, u, context, centre), x, self.steps)
        return self.to_w(x, centre)

    def _begin(self, n: int, n_way: int, stream: torch.Generator) -> Tensor:
        """Draw x(0) (n, D)."""
        dim = self.space.dim(n_way)
        noise = self.noise * torch.randn(n, dim, generator=stream, device=stream.device).to(self.layer_scale)
        if isinstance(self.initialization, Fresh):  # a random initialization, whose centre is zero
            return noise + self.initialization.initial(n, n_way, stream).to(noise) / self.scale(dim)
        return noise

    def _path(self, begin: Tensor, points: Tensor, centre: Tensor) -> Tensor:
        """Return the path x(s) at s = 0, 1/(P−1), …, 1: (B, P, D), from x(0) = ``begin`` (B, D)."""
        recorded = self.to_x(points.to(centre).flip(1), centre[:, None])
        if self.initialization.drawn:  # the order of hidden units is that of the task's own random initialization
            return recorded
        return torch.cat([begin[:, None], recorded[:, 1:]], 1)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Return the loss (B,) of the weights that one Euler step reaches from a path state or an on-policy state."""
        centre = self.initialization.centre(task.context)
        begin = self._begin(len(centre), task.context.n_way, stream)
        path = None if points is None else self._path(begin, points, centre)
        on_policy = 1.0 if path is None else self.on_policy

        def loss_at(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
            end = u.floor() + 1
            landing = self.to_w(x + (end - u)[:, None] * v, centre)
            target = None if path is None else self.to_w(interpolate(path, end / self.steps), centre)[:, None]
            return self.weights_loss(landing, task, target)

        total = torch.zeros_like(centre[:, 0])
        if on_policy < 1 and path is not None:
            u = self.steps * torch.rand(len(centre), generator=stream).to(centre)
            x = interpolate(path, u / self.steps)
            total = total + (1 - on_policy) * loss_at(x, u, self.velocity(x, u, task.context, centre))
        if on_policy > 0:
            visit = int(torch.randint(0, self.steps, (), generator=stream))
            with torch.no_grad():  # no gradient through the integration
                *_, x = euler(
                    lambda x, u: self.velocity(x, u, task.context, centre), begin if path is None else path[:, 0], visit
                )
            u = torch.full_like(total, visit)
            total = total + on_policy * loss_at(x, u, self.velocity(x, u, task.context, centre))
        return total


def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int) -> Iterator[Tensor]:
    """Integrate dx/du = velocity(x, u) by Euler's method; yield the states x(u) (B, D) at u = 0, 1, …, steps.

    Args:
        velocity: (x (B, D), u (B,)) -> (B, D).
        x: x(0) (B, D).
        steps: number of steps.
    """
    yield x
    for u in range(steps):
        x = x + velocity(x, x.new_full((len(x),), u))
        yield x


def interpolate(path: Tensor, s: Tensor) -> Tensor:
    """Interpolate a path (B, P, D) linearly at times s (B,) in [0, 1]: (B, D)."""
    place = s * (path.shape[1] - 1)
    before = place.floor().clamp(max=path.shape[1] - 2)
    a, b = (path.take_along_dim(i.long()[:, None, None], 1).squeeze(1) for i in (before, before + 1))
    return torch.lerp(a, b, (place - before)[:, None])
