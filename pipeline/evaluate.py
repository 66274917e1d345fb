"""Stage 6: the generated heads and the controls, scored on the queries of the meta-test tasks -> data/results/."""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ltdi.errors import InputError
from ltdi.heads import Head, task_losses
from ltdi.metrics import accuracy, best_and_paired, mean_and_ci95, weight_mse
from ltdi.store import read_table, read_tensors, write_json, write_table, write_tsv
from ltdi.tasks import TaskSource, labelled
from pipeline import params as parameters
from pipeline.figures import draw_landscape
from pipeline.files import load_start, load_tasks, load_trajectories
from pipeline.progress import say
from pipeline.stage import deterministic, device, run
from pipeline.summary import outcome


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "evaluate")
    deterministic()
    where = device()
    test = load_tasks(data, splits=["meta_test"])["meta_test"].to(where)
    start = load_start(data, where)
    recorded, kept = load_trajectories(data, "meta_test")
    timing = read_table(data / "weights" / "timing.parquet")
    if params.evaluate.task >= len(test):
        raise InputError(
            f"evaluate.task = {params.evaluate.task} is not one of the {len(test)} meta-test tasks; lower it"
        )
    file = data / "weights" / "chain.safetensors"
    # (T+1, tasks, D) of a method that has one, a state a row, x_T first
    chain = read_tensors(file)[0]["states"] if file.exists() else None
    queries, labels = labelled(test.batch(torch.arange(len(test))).query.features)

    name, *controls = timing.name.unique()
    tables = {}
    for each in (name, *controls):
        made = {
            key: value.to(where) for key, value in read_tensors(data / "weights" / f"{each}.safetensors")[0].items()
        }
        distance = torch.full((len(test),), float("nan"))
        if "w" in made:
            scores = accuracy(start.head(made["w"], queries), labels).cpu()
            distance[kept] = weight_mse(made["w"].cpu()[kept], recorded.points[:, 0])
        else:
            scores = (made["predicted"] == labels).float().mean(-1).cpu()
        tables[each] = pd.DataFrame(
            {"method": each, "task": range(len(test)), "accuracy": scores.numpy(), "weight_mse": distance.numpy()}
        )

    metrics = _summary(name, controls, tables, timing)
    trained = recorded.points[:, 0].to(where)
    ceiling, ci95 = mean_and_ci95(accuracy(start.head(trained, queries[kept]), labels[kept]))
    # heads that saw the queries: no method can be expected to pass them
    metrics["ceiling"] = {"accuracy": ceiling, "ci95": ci95}
    metrics["way"] = _way(recorded.points, kept, chain)
    write_table(data / "results" / "per_task.parquet", pd.concat(tables.values(), ignore_index=True))
    write_tsv(data / "results" / "accuracy.tsv", _bars(name, metrics))
    _landscape(data, start.head, test, recorded.points, kept, chain, params.evaluate)
    write_json(data / "results" / "metrics.json", metrics)
    say(outcome(metrics))


def _summary(name: str, controls: list[str], tables: dict[str, pd.DataFrame], timing: pd.DataFrame) -> dict:
    def row(each: str) -> dict:
        mean, ci95 = mean_and_ci95(torch.tensor(tables[each].accuracy.to_numpy()))
        ms = timing[timing.name == each].set_index("batch").drop(columns="name")
        values = {
            "accuracy": mean,
            "ci95": ci95,
            "ms_per_task": {f"batch_{n}": float(ms.ms_embed[n] + ms.ms_generate[n]) for n in ms.index},
        }
        distance = tables[each].weight_mse.mean()
        return values if pd.isna(distance) else values | {"weight_mse": float(distance)}

    metrics = {"method": name, **row(name)}
    if not controls:
        return metrics
    scores = {each: torch.tensor(table.accuracy.to_numpy()) for each, table in tables.items()}
    best, paired = best_and_paired(scores.pop(name), scores)
    return metrics | {"controls": {each: row(each) for each in controls}, "best_control": best, "paired": paired}


def _bars(name: str, metrics: dict) -> pd.DataFrame:
    rows = {name: metrics} | metrics.get("controls", {}) | {"ceiling": metrics["ceiling"]}
    return pd.DataFrame(
        [{"head": each, "accuracy": values["accuracy"], "ci95": values["ci95"]} for each, values in rows.items()]
    )


def _way(points: Tensor, kept: Tensor, chain: Tensor | None) -> dict[str, dict[str, float]]:
    """How far the recorded points w_n … w_0, and the states x_T … x_0 of the chain, are from the trained head w_0:
    mean squared difference, over the tasks of which both are there."""
    both = 0 if chain is None else int((kept < chain.shape[1]).sum())
    trained, states = points[: both or len(points), 0], points[: both or len(points)].unbind(1)
    way = {"recorded": {f"w{i}": weight_mse(states[i], trained).mean().item() for i in reversed(range(len(states)))}}
    if not both:
        return way
    states = zip(reversed(range(len(chain))), chain[:, kept[:both]])
    return way | {"chain": {f"x{t}": weight_mse(x_t, trained).mean().item() for t, x_t in states}}


def _landscape(
    data: Path,
    head: Head,
    test: TaskSource,
    points: Tensor,
    kept: Tensor,
    chain: Tensor | None,
    knobs: parameters.Evaluate,
) -> None:
    """The paper's Figure 1."""
    task = knobs.task if knobs.task in kept else int(kept[0])
    inputs, labels = labelled(test.all_images(torch.tensor([task], device=test.features.device)).cpu())

    def losses(w: Tensor) -> Tensor:
        return task_losses(head, w, inputs.expand(len(w), -1, -1), labels.expand(len(w), -1))

    states = None if chain is None or task >= chain.shape[1] else chain[:, task]
    draw_landscape(data / "results" / "trajectory.png", points[kept == task][0], states, losses, knobs.landscape_points)


if __name__ == "__main__":
    run(main)
