"""What methods are built with: the hyperparameters that several of them share, and the sizes of the run."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ltdi.config import Denoiser, Diffusion, MetaTraining
from ltdi.diffusion.denoiser import DENOISERS
from ltdi.diffusion.schedule import SCHEDULES, Schedule
from ltdi.learners.base import Learner
from ltdi.utils.memory import check_fits

OF_TRAINING = 5
"""How many numbers there are for one of a network's: itself, its gradient, its mean, and Adam's two moments."""


@dataclass(frozen=True)
class Setup:
    """The same for all methods of a run: the hyperparameters, ``length`` P, ``n_way`` and ``n_shot`` of a task of the
    table, the number of recorded tasks and of the classes that tasks are drawn from, the frozen body, where there is
    one, and what tasks have that not all do: "classes", "examples", "images"."""

    meta: MetaTraining
    diffusion: Diffusion
    denoiser: Denoiser
    length: int
    n_way: int
    n_shot: int
    n_tasks: int
    n_classes: int
    body: nn.Module | None = None
    provides: frozenset[str] = frozenset()

    def network(self, learner: Learner, *, channels: int = 1) -> nn.Module:
        """The denoiser for a learner's weights, of so many vectors as input.

        Raises:
            InputError: it would not fit into memory.
        """
        network = partial(DENOISERS[self.denoiser.name], learner.space, learner.n_numbers)
        sizes = {"n_way": self.n_way, "channels": channels, "steps": self.diffusion.steps}
        sizes |= self.denoiser.model_dump(exclude={"name"})
        network = partial(network, **sizes)
        with torch.device("meta"):
            n_numbers = sum(each.numel() for each in network().parameters())
        check_fits(
            OF_TRAINING * n_numbers,
            f"a denoiser of {n_numbers} numbers",
            "lower denoiser.width, denoiser.depth or denoiser.neurons_a_token",
        )
        return network()

    @property
    def fixed_n_way(self) -> bool:
        """Whether the denoiser is for as many slots as it was built for."""
        return self.denoiser.name == "unet"

    @property
    def schedule(self) -> Schedule:
        """The noise schedule (α_t, ᾱ_t) of the section ``diffusion``."""
        of = self.diffusion
        return SCHEDULES[of.schedule](of.steps, of.max_beta, of.min_alpha_bar)
