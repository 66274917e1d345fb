"""``python -m bench.ways``: one run's heads for tasks of other numbers of classes and images than it was trained on -> bench/results/ways.csv.

On the run's meta-test classes, beside the controls that need no training.
"""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from pipeline.body import load_body
from pipeline.build import load_method
from torch import Tensor

from bench.rows import WAYS_COLUMNS, add, commit, machine
from bench.stages import run_stages
from bench.variants import variant_params
from ltdi.errors import InputError
from ltdi.methods.base import query_accuracies
from ltdi.metrics import best_and_paired, mean_and_ci95
from ltdi.seeding import generator
from ltdi.store import read_json, read_tensors
from ltdi.tasks import TaskSource
from pipeline.progress import say
from pipeline.stage import device

METHODS = (
    "ltdi",
    "prototype",
    "ridge",
    "prototype_sgd",
)  # the generator, and the controls that can tell any number of classes


def main(
    setting: Annotated[
        list[str], typer.Option(help="A setting of bench/params.yaml, that the run is trained on; may be repeated.")
    ],
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],
    ways: Annotated[list[int], typer.Option(help="Classes of a task; may be repeated.")] = [2, 5, 10, 20],
    shots: Annotated[list[int], typer.Option(help="Support images of a class; may be repeated.")] = [1, 2, 5],
    tasks: Annotated[int, typer.Option(help="Tasks a seed, of each number of classes and images.")] = 1000,
    budget: Annotated[str, typer.Option(help="A budget of bench/params.yaml.")] = "cpu",
    root: Annotated[Path, typer.Option(envvar="LTDI_DATA", help="The folder that holds the data sets.")] = Path(
        "data/raw"
    ),
    runs: Annotated[Path, typer.Option(help="Where the stages' outputs are kept.")] = Path("runs"),
) -> None:
    try:
        for each_setting, each_seed in product(setting, seed):
            params = variant_params(each_setting, "ltdi", base="defaults", budget=budget, seed=each_seed, root=root)
            data = run_stages(params, runs, until="meta_train")
            common = {
                "setting": each_setting,
                "seed": each_seed,
                "tasks": tasks,
                "device": machine(),
                "commit": commit(),
            }
            for n_way, n_shot in product(ways, shots):
                scores = _scores(data, n_way, n_shot, tasks, each_seed)
                best, paired = best_and_paired(
                    scores["ltdi"], {name: values for name, values in scores.items() if name != "ltdi"}
                )
                say(
                    f"{each_setting} seed {each_seed}, {n_way} classes of {n_shot}: {scores['ltdi'].mean():.4f}, {paired['difference']:+.4f} ± {paired['ci95']:.4f} over {best}"
                )
                rows = []
                for name, values in scores.items():
                    mean, ci95 = mean_and_ci95(values)
                    rows.append(
                        common | {"n_way": n_way, "n_shot": n_shot, "method": name, "accuracy": mean, "ci95": ci95}
                    )
                rows[0] |= {"best_control": best, "paired_diff": paired["difference"], "paired_ci95": paired["ci95"]}
                add("ways.csv", WAYS_COLUMNS, rows)
    except InputError as error:
        say(f"bench: {error}")
        raise SystemExit(2) from error


def _scores(data: Path, n_way: int, n_shot: int, n_tasks: int, seed: int) -> dict[str, Tensor]:
    """The accuracy of each of the new tasks (n_tasks,) by method."""
    where = device()
    features, facts = read_tensors(data / "tasks" / "features.safetensors")
    n_images = facts["n_images"]["meta_test"]
    source = TaskSource.sample(
        features["meta_test"],
        n_tasks=n_tasks,
        n_way=n_way,
        n_shot=n_shot,
        n_query=min(15, n_images - n_shot),
        seed=seed,
        split="meta_test ways",
        n_images=n_images,
    )
    source = source.to(where)
    body, scores = load_body(data).to(where), {}
    known = read_json(data / "model" / "methods" / "names.json")["controls"]
    for name in (each for each in METHODS if each in ("ltdi", *known)):
        method = load_method(data / "model", name, body, where)
        scores[name] = query_accuracies(
            method, source, lambda support: method.generate(support, generator=generator(seed, "noise"))
        ).cpu()
    return scores


if __name__ == "__main__":
    typer.run(main)
