"""Flow matching (Lipman et al. 2023, "Flow Matching for Generative Modeling") along recorded trajectories.

Time s runs from 0, the start w_n, to 1, the trained head w_0. The published path of a sample is the
straight line from noise; here it is the recorded trajectory, its points at equal spacing and linear
between them, and it begins at the start instead of at pure noise. The published target is the path's
velocity at s; here it is the mean velocity from s to the end of the Euler step that s lies in. Both
are one where that step lies in one segment of the path, and Euler of the mean lands on the path
whatever the number of steps. Training also sees the states that the integration itself visits: on
the path a state tells the network of the head that it leads to, as none does at generation. The
query cross-entropy is ours, as for the diffusion methods.

Inside, time is u = steps·s, counted in Euler steps: its whole part is exact.
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
    """
    Args:
        steps: Euler steps of the generation.
        noise: deviation of the Gaussian noise on the start, in x; at generation one draw for all tasks.
        visited: share of the loss on states that the integration visits; the rest is on the recorded path.
    """

    def __init__(
        self, initialization: Initialization, setup: Setup, *, steps: int, noise: float, on_policy: float
    ) -> None:
        super().__init__(initialization, setup)
        self.fixed_n_way |= setup.fixed_n_way
        self.steps, self.noise, self.on_policy = steps, noise, on_policy
        self.network = setup.network(self.learner, channels=1 + initialization.shown)

    def velocity(self, x: Tensor, u: Tensor, context: Context, centre: Tensor) -> Tensor:
        """v_φ(x, u, c) = dx/du (B, D). The network is shown the centre where denoisers are."""
        shown = [x, unit_rms(centre)] if self.initialization.shown else [x]
        return self.network(torch.stack(shown, 1), u, context.rows, context.present)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        x = self._begin(1, context.n_way, generator).expand_as(centre)
        *_, x = euler(lambda x, u: self.velocity(x, u, context, centre), x, self.steps)
        return self.to_w(x, centre)

    def _begin(self, n: int, n_way: int, stream: torch.Generator) -> Tensor:
        """x(0) (n, D)."""
        dim = self.space.dim(n_way)
        noise = self.noise * torch.randn(n, dim, generator=stream, device=stream.device).to(self.layer_scale)
        if isinstance(self.initialization, Fresh):  # the only start that the centre, zero, does not hold
            return noise + self.initialization.initial(n, n_way, stream).to(noise) / self.scale(dim)
        return noise

    def _path(self, begin: Tensor, points: Tensor, centre: Tensor) -> Tensor:
        """x(s) at s = 0, 1/(P−1), …, 1: (B, P, D), from x(0) = ``begin`` (B, D)."""
        recorded = self.to_x(points.to(centre).flip(1), centre[:, None])
        if self.initialization.drawn:  # hidden units stand in the order of the task's own draw
            return recorded
        return torch.cat([begin[:, None], recorded[:, 1:]], 1)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
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
            with torch.no_grad():  # the state is given, not learned through
                *_, x = euler(
                    lambda x, u: self.velocity(x, u, task.context, centre), begin if path is None else path[:, 0], visit
                )
            u = torch.full_like(total, visit)
            total = total + on_policy * loss_at(x, u, self.velocity(x, u, task.context, centre))
        return total


def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int) -> Iterator[Tensor]:
    """The states x(u) (B, D) at u = 0, 1, …, steps, of dx/du = velocity(x, u (B,))."""
    yield x
    for u in range(steps):
        x = x + velocity(x, x.new_full((len(x),), u))
        yield x


def interpolate(path: Tensor, s: Tensor) -> Tensor:
    """x(s) (B, D) at times s (B,) in [0, 1], linear between the points of the path (B, P, D)."""
    place = s * (path.shape[1] - 1)
    before = place.floor().clamp(max=path.shape[1] - 2)
    a, b = (path.take_along_dim(i.long()[:, None, None], 1).squeeze(1) for i in (before, before + 1))
    return torch.lerp(a, b, (place - before)[:, None])
