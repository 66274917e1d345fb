"""Stage 6: the generated weights and the baselines, scored on the queries of the meta-test tasks -> data/results/."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor

from ltdi import config
from ltdi.learners.base import Learner
from ltdi.store import read_table, read_tensors, write_json, write_table, write_tsv
from ltdi.store.schemas import CHAIN, TIMING, WEIGHTS, made_from
from ltdi.tasks.base import TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories, read_weights, taken
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import best_and_paired, mean_and_ci95, weight_mse
from pipeline.common import params as parameters
from pipeline.common.stage import run
from pipeline.figures import draw_landscape
from pipeline.summary import outcome


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "evaluate")
    deterministic()
    where = device()
    initialization, _, _ = load_initialization(data, where)
    recorded, kept = load_trajectories(data, "meta_test")
    test = load_sources(data, splits=["meta_test"], device=where)["meta_test"]
    taken(test, kept, data)
    world = SimpleNamespace(learner=initialization.learner, test=test, recorded=recorded, kept=kept)
    timing = read_table(data / "weights" / "timing.parquet", kind=TIMING)
    if params.evaluate.task >= len(test):
        raise InputError(
            f"evaluate.task = {params.evaluate.task} is not one of the {len(test)} meta-test tasks; lower it"
        )
    file = data / "weights" / "chain.safetensors"
    # (T+1, tasks, D) of a method that has one, a state a row, x_T first
    chain = read_tensors(file, kind=CHAIN)[0]["states"] if file.exists() else None

    name, *baselines = timing.name.unique()
    tables = {each: _scored(each, data / "weights" / each, world) for each in (name, *baselines)}
    metrics = {"scored_by": initialization.learner.scored_by, **_summary(name, baselines, tables, timing)}
    ceiling, ci95 = mean_and_ci95(_trained_scores(world))
    # weights that saw the queries: no method can be expected to pass them
    metrics["ceiling"] = {"score": ceiling, "ci95": ci95}
    metrics["way"] = _way(recorded, kept, chain)
    folder, before = data / "results", made_from(data, "results")
    write_table(folder / "per_task.parquet", pd.concat(tables.values(), ignore_index=True), made_from=before)
    write_tsv(folder / "scores.tsv", _bars(name, metrics))
    _landscape(data, world, chain, params.evaluate)
    write_json(folder / "metrics.json", metrics, made_from=[*before, folder / "per_task.parquet"])
    say(outcome(metrics))


def _scored(name: str, folder: Path, world: SimpleNamespace) -> pd.DataFrame:
    """The score of each task with its weights, and their distance to the trained ones where there are any."""
    scores = torch.full((len(world.test),), float("nan"), dtype=torch.float64)
    distances, place = scores.clone(), {int(task): j for j, task in enumerate(world.kept)}
    for tasks, made in read_weights(folder):
        with WEIGHTS.interpreting(folder):
            world.test.take(tasks)
            world.learner.space.sizes(made["w"].shape[-1] if "w" in made else world.learner.space.dim())
        for part in batches(len(tasks)):
            some = tasks[part]
            if "scores" in made:
                scores[some] = made["scores"][part].double().cpu()
                continue
            w = made["w"][part]
            query = world.test.batch(some).query
            scores[some] = world.learner.score(w.to(next(iter(query.values())).device), query).double().cpu()
            there = torch.tensor([int(task) in place for task in some])
            of = torch.tensor([place[int(task)] for task in some[there]], dtype=torch.long)
            if len(of):
                distances[some[there]] = weight_mse(w[there], world.recorded.trained(of)).double()
    if bool(scores.isnan().any()):
        missing = int(scores.isnan().nonzero()[0])
        raise InputError(f"{folder}: no weights for task {missing}; delete it and run `dvc repro`")
    columns = {"method": name, "task": range(len(scores)), "score": scores.numpy(), "weight_mse": distances.numpy()}
    return pd.DataFrame(columns)


def _trained_scores(world: SimpleNamespace) -> Tensor:
    """Of the trained weights, on the queries (M,)."""
    found = []
    for part in batches(len(world.kept)):
        query = world.test.batch(world.kept[part]).query
        trained = world.recorded.trained(part).to(next(iter(query.values())).device)
        found.append(world.learner.score(trained, query).cpu())
    return torch.cat(found)


def _summary(name: str, baselines: list[str], tables: dict[str, pd.DataFrame], timing: pd.DataFrame) -> dict:
    def row(each: str) -> dict:
        mean, ci95 = mean_and_ci95(torch.tensor(tables[each].score.to_numpy()))
        ms = timing[timing.name == each].set_index("batch").drop(columns="name")
        times = {f"batch_{n}": float(ms.ms_embed[n] + ms.ms_generate[n]) for n in ms.index}
        values = {"score": mean, "ci95": ci95, "ms_per_task": times}
        distance = tables[each].weight_mse.mean()
        return values if pd.isna(distance) else values | {"weight_mse": float(distance)}

    metrics = {"method": name, **row(name)}
    if not baselines:
        return metrics
    scores = {each: torch.tensor(table.score.to_numpy()) for each, table in tables.items()}
    best, paired = best_and_paired(scores.pop(name), scores)
    return metrics | {"baselines": {each: row(each) for each in baselines}, "best_baseline": best, "paired": paired}


def _bars(name: str, metrics: dict) -> pd.DataFrame:
    rows = {name: metrics} | metrics.get("baselines", {}) | {"ceiling": metrics["ceiling"]}
    return pd.DataFrame([{"head": each, "score": row["score"], "ci95": row["ci95"]} for each, row in rows.items()])


def _way(recorded: Trajectories, kept: Tensor, chain: Tensor | None) -> dict[str, dict[str, float]]:
    """How far the recorded points w_n … w_0, and the states x_T … x_0 of the chain, are from the trained weights w_0:
    mean squared difference, over the tasks of which both are there, or a hundred."""
    both = 0 if chain is None else int((kept < chain.shape[1]).sum())
    points = recorded.points(torch.arange(both or min(len(recorded), 100)))
    trained, states = points[:, 0], points.unbind(1)
    way = {"recorded": {f"w{i}": weight_mse(states[i], trained).mean().item() for i in reversed(range(len(states)))}}
    if chain is None or not both:
        return way
    timed = zip(reversed(range(len(chain))), chain[:, kept[:both]])
    return way | {"chain": {f"x{t}": weight_mse(x_t, trained).mean().item() for t, x_t in timed}}


def _landscape(data: Path, world: SimpleNamespace, chain: Tensor | None, hparams: config.Evaluate) -> None:
    """The paper's Figure 1, left."""
    learner: Learner = world.learner
    test: TaskSource = world.test
    task = hparams.task if hparams.task in world.kept else int(world.kept[0])
    place = int((world.kept == task).nonzero())
    everything = {name: value.cpu() for name, value in test.fitted_on(torch.tensor([task])).items()}

    def losses(w: Tensor) -> Tensor:
        batch = {name: value.expand(len(w), *value.shape[1:]) for name, value in everything.items()}
        return learner.loss(w, batch)

    states = None if chain is None or task >= chain.shape[1] else chain[:, task]
    path = world.recorded.points(torch.tensor([place]))[0]
    draw_landscape(data / "results" / "trajectory.png", path, states, losses, hparams.landscape_points)


if __name__ == "__main__":
    run(main, writes="results")
