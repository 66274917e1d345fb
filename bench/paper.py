"""``python -m bench paper``: the paper's own form, diffusion from noise on recorded weights alone, and what it has to
beat -> paper.csv, paper.md.

Rows, settings and the rule by which a training ends are those of ``paper.yaml``. A row is kept under ``runs/paper`` by
all that it depends on, so that a run that was killed goes on where it was; rows are measured side by side, a process a
core.
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

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import BENCH, RESULTS, RUNS, paper_table
from bench.curves import GLYPHS, World
from bench.machine import origin
from bench.options import RAW, Root, Runs
from bench.paper_table import BOTH
from bench.plan import LOCATE
from bench.settings import bench_params, defaults, load_yaml, override, pick
from bench.stages import name_of_code, read_stages, run_stages
from ltdi.diffusion import sampler
from ltdi.meta_learning.reptile import CURRENT_PARAMETERS
from ltdi.methods.common.base import Method
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.trained import TrainedMethod
from ltdi.store import digest, write_tensors
from ltdi.tasks.base import Context, batches
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import weight_mse
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

SAMPLERS: dict[str, dict[str, Any]] = {
    "equation 1": {"step": sampler.ddpm},
    "DDIM": {"step": sampler.ddim},
    "scaled joins": {"step": sampler.ddpm, "scaled_joins": True},
}
ONE_CALL = "one call at T"
TRAINED = "trained"
"""The row of the recorded heads themselves."""


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
    started, preset = time.monotonic(), load_yaml(BENCH / "paper.yaml")
    settings = [each for each in setting or preset["settings"] if _is_found(each, root)]
    allowed = [f"{regime}/{method}" for regime in preset["regimes"] for method in BOTH]
    allowed = allowed if regimes else list(preset["rows"])
    seeds, names = seed or [0, 1, 2], row or allowed
    for name in names:
        if name not in allowed:
            raise InputError(f"--row {name} is not in bench/paper.yaml; allowed: {', '.join(allowed)}")
    settings = settings[:1] if regimes else settings
    write = paper_table.write_regimes if regimes else paper_table.write
    # seed by seed, so that a run that is stopped has whole tables of fewer seeds
    everywhere = {each: names if each in GLYPHS else preset["everywhere"] for each in settings}
    cells = [(each, name, one) for one, each in product(seeds, settings) for name in names if name in everywhere[each]]
    for each, name, one in cells:  # what rows share is made once, on all cores
        run_stages(params_of(each, name, one, root), runs, until="collect_trajectories")
    found = []
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for file in pool.map(partial(measured, root=root, runs=runs), *zip(*cells)):
            found.append(pd.read_parquet(file))
            write(pd.concat(found, ignore_index=True), preset, results)
    say(f"wrote {'regimes' if regimes else 'paper'}.md in {results}, {(time.monotonic() - started) / 60:.0f} minutes")


def _is_found(setting: str, root: Path) -> bool:
    data = pick(bench_params(), "settings", setting)["data"]
    try:
        LOCATE[data](root)
    except InputError as error:
        say(f"bench: {setting} is left out: {error}")
        return False
    return True


def params_of(setting: str, row: str, seed: int, root: Path) -> dict[str, Any]:
    """The params of a row of paper.yaml in a setting of params.yaml."""
    bench, preset = bench_params(), load_yaml(BENCH / "paper.yaml")
    changes = bench["data"][bench["settings"][setting]["data"]] | _sizes(bench, setting)
    changes |= preset["shared"] | _changes_of_row(preset, row) | {"method.baselines": preset["baselines"]}
    return override(
        defaults(),
        changes | {"seed": seed, "data.root": str(root), "meta.steps": preset["flat"]["most"]},
    )


def _changes_of_row(preset: Mapping[str, Any], row: str) -> dict[str, Any]:
    """Of a row of ``rows``, or of a regime and a method with a slash between them."""
    regime, _, method = row.rpartition("/")
    return preset["regimes"][regime] | {"method.name": method} if regime else preset["rows"][row]


def _sizes(bench: Mapping[str, Any], setting: str) -> dict[str, Any]:
    return {key: value for key, value in bench["settings"][setting].items() if key.startswith("tasks.n_")}


def measured(setting: str, row: str, seed: int, *, root: Path, runs: Path) -> Path:
    """Train and measure a row, where that is not done yet: the file of its lines, one a task and sampler."""
    params, preset = params_of(setting, row, seed, root), load_yaml(BENCH / "paper.yaml")
    data = run_stages(params, runs, until="collect_trajectories")
    stage = read_stages()["meta_train"]
    own_code = name_of_code(BENCH, (BENCH / "paper.py", BENCH / "curves.py"))
    key = digest(str(data.parent.name), stage.values(params), stage.code(params), own_code, preset["flat"], row)
    file = runs / "paper" / f"{key[:16]}.parquet"
    if file.exists():
        return file
    deterministic()
    world = World.read(data)
    lines = []
    method = world.build(params)
    curve = list(trained_until_flat(method, world, params, preset["flat"]))
    about: dict[str, Any] = {
        "setting": setting,
        "seed": seed,
        "curve": json.dumps(curve),
        "steps": curve[-1]["step"],
        **origin(),
    }
    about |= {"seconds": curve[-1]["seconds"], "flat": curve[-1]["flat"]}
    for name, weights in ways_of(method, world).items():
        lines.append(_scored(method, world, weights).assign(row=row, sampler=name, **about))
    if row == next(iter(preset["rows"])):  # once for all rows
        for name in preset["baselines"]:
            baseline = world.build(override(params, {"method.name": name}))
            lines.append(_scored(baseline, world, _generated(baseline, world)).assign(row=name, sampler="", **about))
        recorded = world.recorded.trained(torch.arange(len(world.test)))
        lines.append(_scored(method, world, recorded).assign(row=TRAINED, sampler="", **about))
    file.parent.mkdir(parents=True, exist_ok=True)
    # what figures are drawn of
    write_tensors(file.with_suffix(".safetensors"), method.state_dict(), {}, kind="paper row")
    pd.concat(lines, ignore_index=True).to_parquet(unfinished := file.with_suffix(f".{os.getpid()}.tmp"))
    os.replace(unfinished, file)
    return file


def trained_until_flat(
    method: Method, world: World, params: Mapping[str, Any], flat: Mapping[str, Any]
) -> Iterator[dict[str, float]]:
    """Train until the score on meta-val is flat, as paper.yaml says; yields what was measured. In the end the method
    has the averaged parameters of the best measure."""
    meta, seed = params["meta"], params["seed"]
    hparams = {"lr": meta["outer_lr"], "ema": meta["ema"], "lr_schedule": meta["lr_schedule"]}
    training = Training(method, steps=flat["most"], **hparams)
    seconds, started = 0.0, time.process_time()
    measures: list[float] = []
    best: dict[str, Tensor] = {}
    method.train()
    for _ in method.meta_train(training, world.train, world.streamed(params), seed=seed):
        if training.step % flat["every"] and training.step < training.steps:
            continue
        seconds += time.process_time() - started
        with training.averaged():
            score, losses = _on_val(method, world, seed)
        if not measures or score > max(measures):
            best = {name: value.clone() for name, value in training.average.items()}
        measures.append(score)
        is_flat = _is_flat(measures, flat["patience"], flat["tolerance"])
        yield {"step": training.step, "seconds": round(seconds, 1), "val_score": score, "flat": is_flat} | losses
        if is_flat:
            break
        started = time.process_time()
    method.load_state_dict(best)
    method.eval()


def _is_flat(measures: list[float], patience: int, tolerance: float) -> bool:
    return len(measures) > patience and max(measures[-patience:]) < max(measures[:-patience]) + tolerance


@torch.no_grad()
def _on_val(method: Method, world: World, seed: int) -> tuple[float, dict[str, float]]:
    """The score on meta-val, and by name the weight MSE there and what the method itself validates by."""
    score, error = 0.0, 0.0
    for tasks in batches(len(world.val)):
        task = world.val.batch(tasks)
        w = _weights(method, task.context, seed)
        score += method.learner.score(w, task.query).sum().item()
        error += weight_mse(w, world.val_recorded.trained(tasks).to(w)).sum().item()
    losses = method.validate(world.val, world.val_recorded, seed=seed)
    return score / len(world.val), {"val_weight_mse": error / len(world.val)} | losses


def _weights(method: Method, context: Context, seed: int) -> Tensor:
    """Weights (B, D) of a context; of a trained generator at full update scale, as the paper has it."""
    noise = generator(seed, "noise")
    if isinstance(method, TrainedMethod):
        return method.propose(context, method.initialization.centre(context), generator=noise)
    return method.generate(context, generator=noise)


def ways_of(method: Method, world: World) -> dict[str, Tensor]:
    """The weights (M, D) of the meta-test tasks at full update scale, by each sampler of a chain."""
    if not isinstance(method, DiffusionMethod):
        return {"": _generated(method, world)}
    found: dict[str, list[Tensor]] = {name: [] for name in (*SAMPLERS, ONE_CALL)}
    T, process = method.process.schedule.T, method.process
    for tasks in batches(len(world.test)):
        context = world.test.context(tasks)
        with torch.no_grad():
            centre = method.initialization.centre(context)
            known = method._conditioning(context, centre)
            x_T, _ = method._draw_noise(centre[:1], context.n_way, generator(0, "noise"), last=True)
            x_T, epsilon = x_T.expand_as(centre), partial(method.epsilon, CURRENT_PARAMETERS, task=known)
            for name, how in SAMPLERS.items():
                *_, (_, x_0, _) = sampler.denoise(process, epsilon, x_T, **how)
                found[name].append(method.to_w(x_0, centre))
            t = torch.full((len(centre),), T)
            w = process.endpoint(epsilon(x_T, t), x_T, t, process.target(t))
            found[ONE_CALL].append(method.to_w(w, centre))
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.no_grad()
def _generated(method: Method, world: World) -> Tensor:
    return torch.cat([_weights(method, world.test.context(tasks), 0) for tasks in batches(len(world.test))])


def _scored(method: Method, world: World, w: Tensor) -> pd.DataFrame:
    tasks = torch.arange(len(world.test))
    found = torch.cat(
        [method.learner.score(w[part], world.test.batch(part).query) for part in batches(len(world.test))]
    )
    distances = weight_mse(w, world.recorded.trained(tasks).to(w))
    return pd.DataFrame({"task": tasks.numpy(), "score": found.numpy(), "weight_mse": distances.numpy()})
