"""``python -m bench paper-landscape``: one task's recorded trajectory and the sampling trajectories of Lv-Di and Lt-Di
over its loss (the paper's Figure 1), of the trainings of ``python -m bench paper`` -> figures/paper_landscape.png."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from bench import RESULTS, RUNS
from bench.figures.curves import World
from bench.harness.settings import RAW, Root, Runs
from bench.harness.stages import run_stages
from bench.tables.paper import measured, params_of
from ltdi.store import read_tensors
from ltdi.tasks.batch import map_batch
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic
from ltdi.utils.seeding import generator
from pipeline.figures import landscape, save

CHAINS = {"lvdi": "Lv-Di", "ltdi": "Lt-Di"}


def main(
    setting: Annotated[str, typer.Option(help="A setting of bench/conf/params.yaml.")] = "glyphs-5w1s",
    seed: Annotated[int, typer.Option(help="Of the trainings.")] = 0,
    task: Annotated[int, typer.Option(help="The meta-test task that is shown.")] = 0,
    root: Root = RAW,
    runs: Runs = RUNS,
    results: Annotated[Path, typer.Option(help="Where figures/ is.")] = RESULTS,
) -> None:
    deterministic()
    data = run_stages(params_of(setting, "ltdi", seed, root), runs, until="collect_trajectories")
    world, number = World.read(data), torch.tensor([task])
    context = world.test.context(number)
    chains: dict[str, Tensor] = {}
    for row, name in CHAINS.items():
        file = measured(setting, row, seed, root=root, runs=runs)
        method = world.diffusion(params_of(setting, row, seed, root))
        method.load_state_dict(read_tensors(file.with_suffix(".safetensors"), kind="paper row")[0])
        centre = method.eval().initialization.centre(context)
        with torch.no_grad():
            chains[f"sampling trajectory of {name}"] = method.chain(context, centre, generator=generator(0, "noise"))[
                :, 0
            ]
    everything = world.test.fitted_on(number)

    def losses(w: Tensor) -> Tensor:
        batch = map_batch(lambda value: value.expand(len(w), *value.shape[1:]), everything)
        return world.initialization.learner.loss(w, batch)

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.subplots()
    shades = landscape(ax, world.recorded.points(number)[0], chains, losses, 61)
    figure.colorbar(shades, label="log₁₀ cross-entropy on all images of the task's classes")
    ax.legend(loc="best", fontsize=8)
    ax.set_title(f"From noise, on recorded weights alone: {setting}, seed {seed}, meta-test task {task}", fontsize=9)
    save(figure, results / "figures" / "paper_landscape.png", dpi=150)
    say(f"wrote figures/paper_landscape.png in {results}")
