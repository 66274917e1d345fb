"""``python -m bench paper``: the paper's own form, diffusion from noise on recorded weights alone, beside baselines ->
paper.csv, paper.md; with ``--regimes`` Lt-Di beside Lv-Di in every regime -> regimes.csv, regimes.md.

Rows, settings and the rule by which a training ends are those of ``conf/paper.yaml``. A row is kept under
``runs/paper`` by all that it depends on, so that a killed run continues where it was; a process a core measures rows.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from bench import RESULTS, RUNS
from bench.figures.curves import World, kept_key, on_the_way
from bench.figures.figure import GLYPHS, found, lines
from bench.harness import report
from bench.harness.rows import FORMAT, origin
from bench.harness.settings import RAW, Root, Runs, bench_params, conf, defaults, override
from bench.harness.stages import run_stages
from ltdi.diffusion import sampler
from ltdi.meta_learning.reptile import OWN
from ltdi.methods.common.base import Method
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.trained import TrainedMethod
from ltdi.store import write_tensors, write_text
from ltdi.tasks.base import Context, batches
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import mean_and_ci95, weight_mse
from ltdi.utils.seeding import generator

SAMPLERS: dict[str, dict[str, Any]] = {
    "equation 1": {"step": sampler.ddpm},
    "DDIM": {"step": sampler.ddim},
    "scaled joins": {"step": sampler.ddpm, "scaled_joins": True},
}
ONE_CALL = "one call at T"
TRAINED = "trained"
"""The row of the recorded heads themselves."""
BOTH, CHAINS = ("lvdi", "ltdi"), ("lvdi", "ltdi", "mcdi")


def main(
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated; if none, 0, 1 and 2.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="May be repeated; if none, those of paper.yaml.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="May be repeated; if none, those of paper.yaml.")] = None,
    regimes: Annotated[bool, typer.Option(help="Lt-Di beside Lv-Di in every regime of paper.yaml instead.")] = False,
    root: Root = RAW,
    runs: Runs = RUNS,
    processes: Annotated[int, typer.Option(help="Rows that are measured at a time.")] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Where paper.csv and paper.md are written.")] = RESULTS,
) -> None:
    started, preset = time.monotonic(), conf("paper")
    settings = found(setting or preset["settings"], root)
    allowed = [f"{regime}/{method}" for regime in preset["regimes"] for method in BOTH]
    allowed = allowed if regimes else list(preset["rows"])
    seeds, names = seed or [0, 1, 2], row or allowed
    for name in names:
        if name not in allowed:
            raise InputError(f"--row {name} is not in bench/conf/paper.yaml; allowed: {', '.join(allowed)}")
    settings = settings[:1] if regimes else settings
    write = write_regimes if regimes else write_rows
    # seed by seed, so that a run that is stopped has whole tables of fewer seeds
    everywhere = {each: names if each == GLYPHS else preset["everywhere"] for each in settings}
    cells = [(each, name, one) for one, each in product(seeds, settings) for name in names if name in everywhere[each]]
    for each, name, one in cells:  # what rows share is made once, on all cores
        run_stages(params_of(each, name, one, root), runs, until="collect_trajectories")
    parts = []
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for file in pool.map(partial(measured, root=root, runs=runs), *zip(*cells)):
            parts.append(pd.read_parquet(file))
            write(pd.concat(parts, ignore_index=True), preset, results)
    say(f"wrote {'regimes' if regimes else 'paper'}.md in {results}, {(time.monotonic() - started) / 60:.0f} minutes")


def params_of(setting: str, row: str, seed: int, root: Path) -> dict[str, Any]:
    """The params of a row of paper.yaml, or of a regime and a method with a slash between them, in a setting."""
    bench, preset = bench_params(), conf("paper")
    of_setting = bench["settings"][setting]
    regime, _, method = row.rpartition("/")
    changes = bench["data"][of_setting["data"]]
    changes |= {key: value for key, value in of_setting.items() if key.startswith("tasks.n_")} | preset["shared"]
    changes |= preset["regimes"][regime] | {"method.name": method} if regime else preset["rows"][row]
    changes |= {"method.baselines": preset["baselines"], "seed": seed, "data.root": str(root)}
    return override(defaults(), changes | {"meta.steps": preset["flat"]["most"]})


def measured(setting: str, row: str, seed: int, *, root: Path, runs: Path) -> Path:
    """Train and measure a row, where that is not done yet: the file of its lines, one a task and sampler."""
    params, preset = params_of(setting, row, seed, root), conf("paper")
    data, key = kept_key(params, runs, preset["flat"], row, code=("tables/paper.py", "figures/curves.py"))
    file = runs / "paper" / f"{key}.parquet"
    if file.exists():
        return file
    deterministic()
    world = World.read(data)
    method, parts = world.build(params), []
    curve = list(trained_until_flat(method, world, params, preset["flat"]))
    about: dict[str, Any] = {"setting": setting, "seed": seed, "curve": json.dumps(curve), **origin()}
    about |= {"steps": curve[-1]["step"], "seconds": curve[-1]["seconds"], "flat": curve[-1]["flat"]}
    for name, weights in by_sampler(method, world).items():
        parts.append(_scored(method, world, weights).assign(row=row, sampler=name, **about))
    if row == next(iter(preset["rows"])):  # once for all rows
        for name in preset["baselines"]:
            baseline = world.build(override(params, {"method.name": name}))
            parts.append(_scored(baseline, world, _generated(baseline, world)).assign(row=name, sampler="", **about))
        recorded = world.recorded.trained(torch.arange(len(world.test)))
        parts.append(_scored(method, world, recorded).assign(row=TRAINED, sampler="", **about))
    file.parent.mkdir(parents=True, exist_ok=True)
    # what figures are drawn of
    write_tensors(file.with_suffix(".safetensors"), method.state_dict(), {}, kind="paper row")
    pd.concat(parts, ignore_index=True).to_parquet(unfinished := file.with_suffix(f".{os.getpid()}.tmp"))
    os.replace(unfinished, file)
    return file


def trained_until_flat(
    method: Method, world: World, params: Mapping[str, Any], flat: Mapping[str, Any]
) -> Iterator[dict[str, float]]:
    """Train until the score on meta-val is flat, as paper.yaml says; yields what was measured. In the end the method
    has the averaged parameters of the best measure."""
    measures: list[float] = []
    best: dict[str, Tensor] = {}
    measure = partial(_on_val, method, world, params["seed"])
    for training, row in on_the_way(method, world, params, flat["most"], flat["every"], measure):
        if not measures or row["val_score"] > max(measures):
            best = {name: value.clone() for name, value in training.average.items()}
        measures.append(row["val_score"])
        ends = _is_flat(measures, flat["patience"], flat["tolerance"])
        losses = {key: value for key, value in row.items() if key.startswith("val_") and key != "val_score"}
        about = {"step": training.step, "seconds": round(row["seconds"], 1), "val_score": row["val_score"]}
        yield about | {"flat": ends} | losses
        if ends:
            break
    method.load_state_dict(best)
    method.eval()


def _is_flat(measures: list[float], patience: int, tolerance: float) -> bool:
    return len(measures) > patience and max(measures[-patience:]) < max(measures[:-patience]) + tolerance


@torch.no_grad()
def _on_val(method: Method, world: World, seed: int) -> dict[str, float]:
    """The score and the weight MSE on meta-val, and what the method itself validates by."""
    score, error = 0.0, 0.0
    for tasks in batches(len(world.val)):
        task = world.val.batch(tasks)
        w = _weights(method, task.context, seed)
        score += method.learner.score(w, task.query).sum().item()
        error += weight_mse(w, world.val_recorded.trained(tasks).to(w)).sum().item()
    losses = method.validate(world.val, world.val_recorded, seed=seed)
    return {"val_score": score / len(world.val), "val_weight_mse": error / len(world.val)} | losses


def _weights(method: Method, context: Context, seed: int) -> Tensor:
    """Weights (B, D) of a context; of a trained generator at full update scale, as the paper has it."""
    noise = generator(seed, "noise")
    if isinstance(method, TrainedMethod):
        return method.propose(context, method.initialization.centre(context), generator=noise)
    return method.generate(context, generator=noise)


def by_sampler(method: Method, world: World) -> dict[str, Tensor]:
    """The weights (M, D) of the meta-test tasks at full update scale, by each sampler of a chain."""
    if not isinstance(method, DiffusionMethod):
        return {"": _generated(method, world)}
    made: dict[str, list[Tensor]] = {name: [] for name in (*SAMPLERS, ONE_CALL)}
    T, process = method.process.schedule.T, method.process
    for tasks in batches(len(world.test)):
        context = world.test.context(tasks)
        with torch.no_grad():
            centre = method.initialization.centre(context)
            conditioning = method._known(context, centre)
            x_T, _ = method._draw_noise(centre[:1], context.n_way, generator(0, "noise"), last=True)
            x_T, epsilon = x_T.expand_as(centre), partial(method.epsilon, OWN, task=conditioning)
            for name, how in SAMPLERS.items():
                *_, (_, x_0, _) = sampler.chain(process, epsilon, x_T, **how)
                made[name].append(method.to_w(x_0, centre))
            t = torch.full((len(centre),), T)
            w = process.endpoint(epsilon(x_T, t), x_T, t, process.target(t))
            made[ONE_CALL].append(method.to_w(w, centre))
    return {name: torch.cat(parts) for name, parts in made.items()}


@torch.no_grad()
def _generated(method: Method, world: World) -> Tensor:
    return torch.cat([_weights(method, world.test.context(tasks), 0) for tasks in batches(len(world.test))])


def _scored(method: Method, world: World, w: Tensor) -> pd.DataFrame:
    tasks, learner = torch.arange(len(world.test)), method.learner
    scores = torch.cat([learner.score(w[part], world.test.batch(part).query) for part in batches(len(world.test))])
    distances = weight_mse(w, world.recorded.trained(tasks).to(w))
    return pd.DataFrame({"task": tasks.numpy(), "score": scores.numpy(), "weight_mse": distances.numpy()})


def _mean(values: pd.Series) -> tuple[float, float]:
    return mean_and_ci95(torch.tensor(values.to_numpy()))


def write_rows(measures: pd.DataFrame, preset: Mapping[str, Any], results: Path) -> None:
    """paper.csv, paper.md, paper_curves.csv and the pictures of the curves."""
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "paper.csv", pd.DataFrame(_rows(measures, preset)).to_csv(**FORMAT))
    report.write("paper.md", results)
    curves = curves_of(measures)
    if len(curves):
        write_text(results / "paper_curves.csv", curves.to_csv(**FORMAT))
        draw_curves(curves, preset, results / "figures")


def _rows(measures: pd.DataFrame, preset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line of paper.csv for every setting, seed, row and sampler: its means over tasks, and its differences from the
    linear map and from Lv-Di by the same sampler, paired over the tasks."""
    by = {
        key: own.set_index("task") for key, own in measures.groupby(["setting", "seed", "row", "sampler"], sort=False)
    }
    for (setting, seed, row, name), own in by.items():
        first = own.iloc[0]
        line = {"setting": setting, "seed": seed, "row": row, "sampler": name, "tasks": len(own)}
        line["accuracy"], line["ci95"] = _mean(own.score)
        line["weight_mse"], line["mse_ci95"] = _mean(own.weight_mse)
        for against, other in (("linear", ("weight_regression", "")), ("lvdi", ("lvdi", name))):
            beside = by.get((setting, seed, *other))
            if beside is not None and other[0] != row:
                line[f"over_{against}"], line[f"over_{against}_ci95"] = _mean(own.score - beside.score)
                difference = own.weight_mse - beside.weight_mse
                line[f"mse_over_{against}"], line[f"mse_over_{against}_ci95"] = _mean(difference)
        trained = row in preset["rows"]
        line |= {key: first[key] if trained else np.nan for key in ("steps", "seconds", "flat")}
        yield line | {"device": first.device, "commit": first.commit}


def write_regimes(measures: pd.DataFrame, preset: Mapping[str, Any], results: Path) -> None:
    measures = measures.reset_index(drop=True)
    parts = measures.row.str.rpartition("/")
    rows = []
    for (regime, seed, name), own in measures.groupby([parts[0], "seed", "sampler"], sort=False):
        by = {method: each.set_index("task") for method, each in own.groupby(parts[2])}
        if len(by) < len(BOTH):
            continue
        ltdi, lvdi = by["ltdi"], by["lvdi"]
        row = {"regime": regime, "seed": seed, "sampler": name, "tasks": len(ltdi)}
        for method, each in by.items():
            row |= {method: each.score.mean(), f"{method}_mse": each.weight_mse.mean()}
            row[f"{method}_steps"] = each.steps.iloc[0]
        row["paired_diff"], row["paired_ci95"] = _mean(ltdi.score - lvdi.score)
        row["mse_diff"], row["mse_ci95"] = _mean(ltdi.weight_mse - lvdi.weight_mse)
        rows.append(row | {"flat": ltdi.flat.all() and lvdi.flat.all(), "commit": ltdi.commit.iloc[0]})
    if rows:
        results.mkdir(parents=True, exist_ok=True)
        write_text(results / "regimes.csv", pd.DataFrame(rows).to_csv(**FORMAT))
        report.write("regimes.md", results)


def curves_of(measures: pd.DataFrame) -> pd.DataFrame:
    """A line for every measure of every training of a chain: setting, seed, row and what the training yielded."""
    parts = []
    for (setting, seed, row), own in measures.groupby(["setting", "seed", "row"], sort=False):
        if row in CHAINS:
            about = {"setting": setting, "seed": seed, "row": row, "commit": own.commit.iloc[0]}
            parts += [about | step for step in json.loads(own.curve.iloc[0])]
    return pd.DataFrame(parts)


def draw_curves(curves: pd.DataFrame, preset: Mapping[str, Any], folder: Path) -> None:
    """paper_time.png and paper_sub_chains.png, in the form of the paper's Figures 5 (left) and 4 (right)."""
    looks, rows = conf("figures"), curves.assign(form="paper", case=curves.row.map(preset["names"]))
    seeds, commits = report.listed(curves.seed), report.listed(curves.commit)
    note = f"from noise, on recorded weights alone; seeds {seeds}; commit {commits}"
    folder.mkdir(parents=True, exist_ok=True)
    lines(rows, looks["paper_time"], note, folder / "paper_time.png")
    losses = [name for name in rows if str(name).startswith("val_loss_w")]
    long = rows[rows.row == "ltdi"].melt(["setting", "seed", "step", "seconds", "form"], losses, "point", "loss")
    long = long.dropna(subset=["loss"]).assign(case=lambda of: "ends at " + of.point.str.removeprefix("val_loss_"))
    if len(long):
        lines(long, looks["paper_sub_chains"], note, folder / "paper_sub_chains.png")
