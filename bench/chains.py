"""The paper's Figure 1: the inference chains of the vanilla and the trajectory process over one task's loss."""

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bench.curves import FORMS, GLYPHS, Bench, World, trained
from bench.machine import origin
from bench.stages import run_stages
from ltdi.tasks.batch import Batch
from ltdi.utils.console import say
from ltdi.utils.metrics import weight_mse
from ltdi.utils.seeding import generator
from pipeline.figures import landscape, save

BOTH = {"lvdi": "Lv-Di, vanilla", "ltdi": "Lt-Di, trajectory"}
TASK, RESOLUTION = 0, 41


def chains(bench: Bench) -> tuple[pd.DataFrame, Callable[[str, Path], None]]:
    """A row for every state of every chain, and for every recorded point: its mean distance² to the trained weights
    over the meta-test tasks. Drawn for the first seed and one task."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, tuple[World, Tensor, dict[str, Tensor]]] = {}
    for form, seed in product(FORMS, bench.seeds):
        about = {"setting": GLYPHS[0], "form": form, "seed": seed, **origin()}
        found: dict[str, Tensor] = {}
        for name in BOTH:
            say(f"bench: {form}, seed {seed}: {name}")
            params = bench.params(GLYPHS[0], form, seed, {"method.name": name})
            world = World.read(run_stages(params, bench.runs, until="collect_trajectories"))
            found[BOTH[name]] = _chain(world, params)
        recorded = world.recorded.points(torch.arange(len(world.recorded)))
        ways = {"recorded": recorded.transpose(0, 1).flip(0)} | found
        for name, states in ways.items():
            for t, state in zip(reversed(range(len(states))), states):
                far = weight_mse(state, recorded[:, 0]).mean().item()
                rows.append(about | {"case": name, "T": len(states) - 1, "t": t, "distance2": far})
        shown.setdefault(form, (world, recorded[TASK], {name: states[:, TASK] for name, states in found.items()}))
    return pd.DataFrame(rows), partial(_draw, shown)


def _chain(world: World, params: dict[str, Any]) -> Tensor:
    """The weights of all meta-test tasks at every state, x_T first (T+1, M, D)."""
    method = world.diffusion(params)
    deque(trained(method, world, params), maxlen=0)
    with torch.no_grad():
        context = world.test.context(torch.arange(len(world.test)))
        return method.sampling_trajectory(
            context, method.initialization.centre(context), generator=generator(0, "noise")
        )


def _draw(shown: dict[str, tuple[World, Tensor, dict[str, Tensor]]], note: str, file: Path) -> None:
    figure = Figure(figsize=(4.2 * len(shown), 4.4), layout="constrained")
    for ax, (form, (world, path, states)) in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown.items()):
        everything = world.test.fitted_on(torch.tensor([TASK]))
        losses = partial(_losses, world, everything)
        shades = landscape(ax, path, states, losses, RESOLUTION)
        figure.colorbar(shades, ax=ax, label="log₁₀ loss on all images of the task's classes", location="bottom")
        ax.set_title(f"{GLYPHS[0]}, form: {form}", fontsize=9)
        ax.legend(loc="best", fontsize=7)
    figure.suptitle(f"Figure 1: inference chains over one task's loss\n{note}", fontsize=8)
    save(figure, file, dpi=90)


def _losses(world: World, everything: Batch, w: Tensor) -> Tensor:
    batch = {name: value.expand(len(w), *value.shape[1:]) for name, value in everything.items()}
    return world.initialization.learner.loss(w, batch)
