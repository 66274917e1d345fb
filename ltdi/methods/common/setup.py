"""What methods are built with: the hyperparameters that several of them share, and the sizes of the run."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ltdi.diffusion.denoiser import DENOISERS
from ltdi.diffusion.schedule import SCHEDULES, Schedule
from ltdi.learners.base import Learner
from ltdi.utils.memory import check_fits

OF_TRAINING = 5
"""How many numbers there are for one of a network's: itself, its gradient, its mean, and Adam's two moments."""


@dataclass(frozen=True)
class Meta:
    """Meta-training.

    ``recorded_tasks`` and ``new_tasks``: how many of each in a step; ``n_way``: the slots of a new task (all, where
    there are fewer); ``min_shot``, ``max_shot``: between which the number of its rows a slot is drawn at every step;
    ``query_images``: a slot. ``query_loss`` is the coefficient of the loss on the queries, ``weight_loss`` that of the
    distance to the trained weights, in which recorded tasks alone count. ``inner_*`` are REPTILE's inner loop.
    """

    n_way: int
    min_shot: int
    max_shot: int
    query_images: int
    new_tasks: int
    recorded_tasks: int
    query_loss: float
    weight_loss: float
    inner_steps: int
    inner_optimizer: str
    inner_lr: float
    streamed_tasks: int = 0
    uses_per_trajectory: int = 1


@dataclass(frozen=True)
class Diffusion:
    """Hyperparameters of a diffusion.

    ``steps`` T; the ``schedule``, its largest β and the ᾱ_T that it ends at or above; what the denoiser's output is
    read as (``prediction``); how the loss weighs times; the share of the loss on ``visited`` states; the size of the
    sampler's noise; ``noise``, the law of ε and x_T: "gaussian" or a recorded "initialization"; ``final_share`` of the
    drawn times at T; the ``sampler``, and whether states are scaled where sub-chains join; whether the denoiser sees
    the examples' gradient.
    """

    steps: int
    schedule: str
    max_beta: float
    prediction: str
    weighting: str
    on_policy: float
    chain_noise: float
    start_noise: float
    gradient_input: bool
    min_alpha_bar: float = 0.0
    noise: str = "gaussian"
    final_share: float = 0.0
    sampler: str = "ddpm"
    scaled_joins: bool = False

    @property
    def decay(self) -> Schedule:
        """The schedule (α_t, ᾱ_t)."""
        return SCHEDULES[self.schedule](self.steps, self.max_beta, self.min_alpha_bar)


@dataclass(frozen=True)
class Denoiser:
    """``name`` is "transformer" or "unet"; ``condition`` "mean" or "attention"."""

    name: str
    width: int
    depth: int
    heads: int
    neurons_a_token: int
    condition: str
    dropout: float
    skip: bool = False
    linear_map: bool = False

    @property
    def sizes(self) -> dict[str, Any]:
        """All but the name and what a denoiser alone has."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "skip", "linear_map")}


@dataclass(frozen=True)
class Setup:
    """The same for all methods of a run: the hyperparameters, ``length`` P, ``n_way`` and ``n_shot`` of a task of the
    table, the number of recorded tasks and of the classes that tasks are drawn from, the frozen body, where there is
    one, and what tasks have that not all do: "classes", "examples", "images"."""

    meta: Meta
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
        sizes |= self.denoiser.sizes | {"skip": self.denoiser.skip, "linear_map": self.denoiser.linear_map}
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
