"""``python -m bench figure <name>``: a figure of the paper and the table behind it -> bench/results/figures/.

Each is drawn for two forms of the method (``forms`` of bench/params.yaml): the paper's own, diffusion from noise on
recorded weights alone, and the defaults.
"""

from collections.abc import Callable
from itertools import product
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from bench import RESULTS, RUNS
from bench.chains import BOTH, chains
from bench.curves import FORMS, GLYPHS, Bench
from bench.machine import origin
from bench.options import RAW, Budget, Root, Runs
from bench.plots import Look, lines
from bench.settings import bench_params, pick
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.errors import InputError

FOLDER = RESULTS / "figures"
SETTINGS = (*GLYPHS, "omniglot-5w1s", "miniimagenet-5w1s")
LENGTHS, LONG = (2, 3, 4, 7), 6
"""Lengths of the trajectory, and steps of a chain that holds the longest; the paper's chain has more."""
STEPS = (3, 6, 20)

SECONDS, POINTS = "CPU seconds of meta-training", "points of the trajectory"
ERROR = "distance² to the trained weights"
LOOKS = {
    "4-left": Look(
        "Figure 4, left: trajectory length and reconstruction error, at equal time",
        ("length", f"{POINTS}; 2 is vanilla diffusion"),
        ("distance2", ERROR),
        log=True,
    ),
    "4-right": Look(
        "Figure 4, right: the loss of each sub-chain, and time",
        ("seconds", SECONDS),
        ("of_untrained", "loss, share of the untrained one's"),
        line="sub_chain",
    ),
    "5-left": Look(
        "Figure 5, left: time and reconstruction error",
        ("seconds", SECONDS),
        ("distance2", ERROR),
        line="case",
        log=True,
    ),
    "5-right": Look(
        "Figure 5, right: diffusion steps and reconstruction error",
        ("T", "diffusion steps"),
        ("distance2", ERROR),
        line="method",
        log=True,
    ),
    "6": Look(
        "Figure 6: meta-training time and accuracy, by how the weights are prepared",
        ("seconds", SECONDS),
        ("score", "accuracy"),
        line="case",
    ),
    "7-8": Look(
        "Figures 7 and 8: accuracy over trajectory length × diffusion steps",
        ("length", POINTS),
        ("score", "accuracy"),
        line="steps",
    ),
}


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The end of every training."""
    return rows[rows.step == rows.groupby(["setting", "form", "seed", "case"]).step.transform("max")]


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


def by_length(bench: Bench) -> pd.DataFrame:
    cases = {f"length {n}": {"trajectories.length": n} for n in LENGTHS}
    long_enough = {case: changes | {"diffusion.steps": LONG} for case, changes in cases.items()}
    parts = []
    for of, settings in ((bench, GLYPHS), (bench.of_one_seed(), SETTINGS[1:])):
        parts += [of.curves(settings, cases, FORMS[:1]), of.curves(settings, long_enough, FORMS[1:])]
    return at_equal_time(pd.concat(parts))


def by_sub_chain(bench: Bench) -> pd.DataFrame:
    rows = bench.curves(GLYPHS, {"ltdi": {"method.name": "ltdi"}}, FORMS)
    names = [str(name) for name in rows if str(name).startswith("val_loss_w")]
    about = [name for name in rows if name not in names]
    long = rows.melt(about, names, "sub_chain", "sub_chain_loss").dropna(subset=["sub_chain_loss"])
    untrained = long.groupby(["form", "seed", "sub_chain"]).sub_chain_loss.transform("first")
    long = long.assign(of_untrained=long.sub_chain_loss / untrained)
    return long.assign(sub_chain="ends at " + long.sub_chain.str.removeprefix("val_loss_"))


def by_time(bench: Bench) -> pd.DataFrame:
    return bench.curves(GLYPHS, {BOTH[name]: {"method.name": name} for name in BOTH}, FORMS)


def by_steps(bench: Bench) -> pd.DataFrame:
    cases = {f"{BOTH[name]}; {T}": {"method.name": name, "diffusion.steps": T} for name, T in product(BOTH, STEPS)}
    rows = last(bench.curves(GLYPHS, cases, FORMS))
    return rows.assign(method=rows.case.str.split(";").str[0])


def by_preparation(bench: Bench) -> pd.DataFrame:
    variants = bench_params()["variants"]
    cases = {"plain": {}, "+ SAM": variants["sam"], "+ augmentation": variants["augment"]}
    return bench.curves(GLYPHS, {case: {"method.name": "ltdi"} | changes for case, changes in cases.items()}, FORMS)


def by_length_and_steps(bench: Bench) -> pd.DataFrame:
    cases = {f"{n}; {T}": {"trajectories.length": n, "diffusion.steps": T} for n, T in product(LENGTHS[:3], STEPS)}
    rows = last(bench.of_one_seed().curves(SETTINGS, cases, FORMS))
    return rows.assign(steps=rows["T"].map("{} diffusion steps".format))


FIGURES: dict[str, Callable[[Bench], pd.DataFrame]] = {
    "4-left": by_length,
    "4-right": by_sub_chain,
    "5-left": by_time,
    "5-right": by_steps,
    "6": by_preparation,
    "7-8": by_length_and_steps,
}


def main(
    name: Annotated[str, typer.Argument(help=f"One of 1, {', '.join(FIGURES)}.")],
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated; if none, the budget's.")] = None,
    budget: Budget = "figures",
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    chosen, picture = pick(bench_params(), "budgets", budget), FOLDER / f"{name}.png"
    bench = Bench(budget, tuple(seed or chosen["seeds"]), root, runs)
    if name == "1":
        rows, draw = chains(bench)
        draw(_note(rows, chosen), picture)
    elif name in FIGURES:
        rows = FIGURES[name](bench)
        lines(rows, LOOKS[name], _note(rows, chosen), picture)
    else:
        raise InputError(f"figure {name!r} is none of the paper's that are drawn; allowed: 1, {', '.join(FIGURES)}")
    write_text(picture.with_suffix(".csv"), rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    say(f"wrote {picture} and the table behind it, {picture.stem}.csv")


def _note(rows: pd.DataFrame, budget: dict[str, Any]) -> str:
    """What was measured, of how many, with which seeds, where."""
    seeds, hparams = sorted(set(rows.seed)), budget["overrides"]
    band = "; a line is their mean, its band their range" if len(seeds) > 1 else ""
    return (
        f"{budget['label']}: {hparams['meta.steps']} meta-training steps; {hparams['tasks.meta_test']} meta-test tasks;"
        f" seeds {', '.join(map(str, seeds))}{band}\nweights at full update scale; {origin()['device']},"
        f" commit {origin()['commit']}"
    )
