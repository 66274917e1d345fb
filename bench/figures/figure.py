"""``python -m bench figure <name>``: a figure of the paper and the table behind it -> bench/results/figures/.

Each is drawn for two forms of the method (``forms`` of conf/params.yaml): the paper's own, diffusion from noise on
recorded weights alone, and the defaults. Which trainings a figure is of, conf/figures.yaml says; Figure 1 is of chains.
"""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from bench import RESULTS, RUNS
from bench.figures.curves import World, curve, trained
from bench.harness import options as opt
from bench.harness.cells import why_missing
from bench.harness.rows import FORMAT, origin
from bench.harness.settings import bench_params, changes_of, conf, defaults, override, pick
from bench.harness.stages import run_stages
from ltdi.store import write_text
from ltdi.tasks.batch import Batch
from ltdi.utils.console import say
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import weight_mse
from ltdi.utils.seeding import generator
from pipeline.figures import landscape, save

FOLDER = RESULTS / "figures"
FORMS, GLYPHS = ["paper", "default"], "glyphs-5w1s"
BOTH = {"lvdi": "Lv-Di, vanilla", "ltdi": "Lt-Di, trajectory"}
TASK, RESOLUTION = 0, 41
FIGURES = conf("figures")["figures"]


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The end of every training."""
    ends = rows[rows.step == rows.groupby(["setting", "form", "seed", "case"]).step.transform("max")]
    return ends.assign(method=ends.case.str.split(";").str[0], steps=ends["T"].map("{} diffusion steps".format))


def at_equal_time(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for every training at the time at which the first of its panel has ended, its error between those that were
    measured before and after, on a logarithmic scale."""
    found = []
    for _, panel in rows.groupby(["setting", "form"], sort=False):
        trainings = panel.groupby(["seed", "case"], sort=False)
        seconds = trainings.seconds.max().min()
        for _, own in trainings:
            error = np.exp(np.interp(seconds, own.seconds, np.log(own.distance2)))
            found.append(own.iloc[-1:].assign(seconds=seconds, distance2=error))
    return pd.concat(found, ignore_index=True)


def by_sub_chain(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for every sub-chain, its loss also as a share of the untrained one's."""
    names = [str(name) for name in rows if str(name).startswith("val_loss_w")]
    about = [name for name in rows if name not in names]
    long = rows.melt(about, names, "sub_chain", "sub_chain_loss").dropna(subset=["sub_chain_loss"])
    untrained = long.groupby(["form", "seed", "sub_chain"]).sub_chain_loss.transform("first")
    long = long.assign(of_untrained=long.sub_chain_loss / untrained)
    return long.assign(sub_chain="ends at " + long.sub_chain.str.removeprefix("val_loss_"))


READINGS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    each.__name__: each for each in (last, at_equal_time, by_sub_chain)
}


def main(
    name: Annotated[str, typer.Argument(help=f"One of 1, {', '.join(FIGURES)}.")],
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated; if none, the budget's.")] = None,
    budget: opt.Budget = "figures",
    root: opt.Root = opt.RAW,
    runs: opt.Runs = RUNS,
) -> None:
    chosen, picture = pick(bench_params(), "budgets", budget), FOLDER / f"{name}.png"
    seeds = seed or chosen["seeds"]
    if name == "1":
        rows, draw = chains(budget, seeds, root, runs)
        draw(_note(rows, chosen), picture)
    elif name in FIGURES:
        rows = trainings(FIGURES[name], budget, seeds, root, runs)
        lines(rows, FIGURES[name], _note(rows, chosen), picture)
    else:
        raise InputError(f"figure {name!r} is none of the paper's that are drawn; allowed: 1, {', '.join(FIGURES)}")
    write_text(picture.with_suffix(".csv"), rows.to_csv(**FORMAT))
    say(f"wrote {picture} and the table behind it, {picture.stem}.csv")


def _note(rows: pd.DataFrame, budget: dict[str, Any]) -> str:
    """Describe the rows in a line: steps, tasks, seeds, machine and commit."""
    seeds, hparams = sorted(set(rows.seed)), budget["overrides"]
    band = "; a line is their mean, its band their range" if len(seeds) > 1 else ""
    return (
        f"{budget['label']}: {hparams['meta.steps']} meta-training steps; {hparams['tasks.meta_test']} meta-test tasks;"
        f" seeds {', '.join(map(str, seeds))}{band}\nweights at full update scale; {origin()['device']},"
        f" commit {origin()['commit']}"
    )


def params_of(budget: str, root: Path, setting: str, form: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    bench = bench_params()
    chosen = pick(bench, "budgets", budget)
    own = (conf("paper")["shared"] if form == "paper" else {}) | pick(bench, "forms", form)
    # a budget is reduced for every form, the paper's own numbers of tasks among it
    own |= {key: value for key, value in chosen["overrides"].items() if key.startswith("tasks.")}
    common = {"seed": seed, "data.root": str(root), "method.baselines": []}
    return override(defaults(), changes_of(bench, setting, chosen) | own | common | changes)


def trainings(figure: Mapping[str, Any], budget: str, seeds: list[int], root: Path, runs: Path) -> pd.DataFrame:
    """The measured rows of every training that a figure is of."""
    parts = []
    for of in figure["of"]:
        chosen = seeds[:1] if of.get("one_seed") else seeds
        settings = found(of.get("settings", [GLYPHS]), root)
        for setting, form, seed, case in product(settings, of.get("forms", FORMS), chosen, of["cases"]):
            params = params_of(budget, root, setting, form, seed, of["cases"][case])
            say(f"bench: {setting}, {form}, seed {seed}: {case}")
            about = {"setting": setting, "form": form, "seed": seed, "case": case, "T": params["diffusion"]["steps"]}
            about |= {"length": params["trajectories"]["length"], **origin()}
            parts.append(curve(params, runs).assign(**about))
    rows = pd.concat(parts, ignore_index=True)
    return READINGS[figure["rows"]](rows) if "rows" in figure else rows


def found(settings: list[str], root: Path) -> list[str]:
    """Return the settings whose data sets are in ``root``; print which are left out."""
    bench = bench_params()
    missing = {each: why_missing(pick(bench, "settings", each)["data"], root) for each in settings}
    for each, why in missing.items():
        if why:
            say(f"bench: {each} is skipped: {why}")
    return [each for each, why in missing.items() if not why]


def lines(rows: pd.DataFrame, look: Mapping[str, Any], note: str, file: Path) -> None:
    """A panel a setting and form; a line is the mean over seeds, its band their range."""
    settings, forms = rows.setting.unique(), rows.form.unique()
    # as wide as the title at least
    figure = Figure(figsize=(max(6.5, 3.6 * len(forms)), 2.7 * len(settings) + 0.7), layout="constrained")
    panels = figure.subplots(len(settings), len(forms), squeeze=False)
    for setting, line in zip(settings, panels):
        for form, ax in zip(forms, line):
            _panel(ax, rows[(rows.setting == setting) & (rows.form == form)], look)
            ax.set_title(f"{setting}, form: {form}", fontsize=8)
        line[0].set_ylabel(look["y"][1], fontsize=7)
    for ax in panels[-1]:
        ax.set_xlabel(look["x"][1], fontsize=7)
    figure.suptitle(f"{look['title']}\n{note}", fontsize=8)
    save(figure, file, dpi=90)


def _panel(ax: Axes, rows: pd.DataFrame, look: Mapping[str, Any]) -> None:
    x_name, y_name = look["x"][0], look["y"][0]
    for name, own in rows.groupby(look["line"], sort=False) if "line" in look else [("", rows)]:
        # at the same step seeds have taken different times, whose mean is the place of all
        points = own.groupby("step" if x_name == "seconds" else x_name)
        x, y = points[x_name].mean(), points[y_name]
        (drawn,) = ax.plot(x, y.mean(), "o-", markersize=3, linewidth=1.2, label=name)
        ax.fill_between(x, y.min(), y.max(), color=drawn.get_color(), alpha=0.2, linewidth=0)
    if y_name == "distance2":
        ax.axhline(rows.of_mean.mean(), color="0.5", linestyle=":", linewidth=1, label="mean of the training weights")
    if look.get("log"):
        ax.set_yscale("log")
    if x_name != "seconds":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=7, which="both")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=6)


def chains(budget: str, seeds: list[int], root: Path, runs: Path) -> tuple[pd.DataFrame, Callable[[str, Path], None]]:
    """Figure 1, the sampling trajectories of the vanilla and the trajectory process over one task's loss: a row for
    every state of every chain and every recorded point: its weight MSE to the trained heads over the meta-test tasks.
    Drawn for the first seed and one task."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, tuple[World, Tensor, dict[str, Tensor]]] = {}
    for form, seed in product(FORMS, seeds):
        about = {"setting": GLYPHS, "form": form, "seed": seed, **origin()}
        states: dict[str, Tensor] = {}
        for name, label in BOTH.items():
            say(f"bench: {form}, seed {seed}: {name}")
            params = params_of(budget, root, GLYPHS, form, seed, {"method.name": name})
            world = World.read(run_stages(params, runs, until="collect_trajectories"))
            states[label] = _chain(world, params)
        recorded = world.recorded.points(torch.arange(len(world.recorded)))
        for name, each in ({"recorded": recorded.transpose(0, 1).flip(0)} | states).items():
            for t, state in zip(reversed(range(len(each))), each):
                far = weight_mse(state, recorded[:, 0]).mean().item()
                rows.append(about | {"case": name, "T": len(each) - 1, "t": t, "distance2": far})
        shown.setdefault(form, (world, recorded[TASK], {name: each[:, TASK] for name, each in states.items()}))
    return pd.DataFrame(rows), partial(_draw_chains, shown)


def _chain(world: World, params: dict[str, Any]) -> Tensor:
    """The weights of all meta-test tasks at every state, x_T first (T+1, M, D)."""
    method = world.diffusion(params)
    deque(trained(method, world, params), maxlen=0)
    with torch.no_grad():
        context = world.test.context(torch.arange(len(world.test)))
        return method.sampling_trajectory(
            context, method.initialization.centre(context), generator=generator(0, "noise")
        )


def _draw_chains(shown: dict[str, tuple[World, Tensor, dict[str, Tensor]]], note: str, file: Path) -> None:
    figure = Figure(figsize=(4.2 * len(shown), 4.4), layout="constrained")
    for ax, (form, (world, path, states)) in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown.items()):
        losses = partial(_losses, world, world.test.fitted_on(torch.tensor([TASK])))
        shades = landscape(ax, path, states, losses, RESOLUTION)
        figure.colorbar(shades, ax=ax, label="log₁₀ loss on all images of the task's classes", location="bottom")
        ax.set_title(f"{GLYPHS}, form: {form}", fontsize=9)
        ax.legend(loc="best", fontsize=7)
    figure.suptitle(f"Figure 1: inference chains over one task's loss\n{note}", fontsize=8)
    save(figure, file, dpi=90)


def _losses(world: World, everything: Batch, w: Tensor) -> Tensor:
    batch = {name: value.expand(len(w), *value.shape[1:]) for name, value in everything.items()}
    return world.initialization.learner.loss(w, batch)
