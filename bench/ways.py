"""``python -m bench ways``: one run's heads for tasks of other sizes than it was trained on -> ways.csv.

On the run's meta-test classes, beside the baselines that need no training.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from bench import RUNS
from bench.machine import origin
from bench.options import ONE_SEED, RAW, Budget, Root, Runs, Seeds, Settings
from bench.rows import add, compared, summary
from bench.settings import variant_params
from bench.stages import run_stages
from ltdi.bodies.registry import read_body
from ltdi.methods.common.base import Method, scores
from ltdi.methods.storage import read_method
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import ClassTasks
from ltdi.trajectories.storage import load_sources, names
from ltdi.utils.console import say
from ltdi.utils.devices import device
from ltdi.utils.seeding import generator

# the generator, and the baselines that can tell any number of classes
METHODS = ("ltdi", "prototype", "ridge", "prototype_sgd")
WAYS, SHOTS = [2, 5, 10, 20], [1, 2, 5]
MOST_QUERIES = 15


def main(
    setting: Settings,
    seed: Seeds = ONE_SEED,
    ways: Annotated[list[int], typer.Option(help="Classes of a task; may be repeated.")] = WAYS,
    shots: Annotated[list[int], typer.Option(help="Support images of a class; may be repeated.")] = SHOTS,
    tasks: Annotated[int, typer.Option(help="Tasks a seed, of each number of classes and images.")] = 1000,
    budget: Budget = "cpu",
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    for where, each_seed in product(setting, seed):
        params = variant_params(where, "ltdi", base="defaults", budget=budget, seed=each_seed, root=root)
        data = run_stages(params, runs, until="meta_train")
        test, methods = load_sources(data, splits=["meta_test"], device=device())["meta_test"], _methods(data)
        common = {"setting": where, "budget": budget, "seed": each_seed, **origin()}
        for n_way, n_shot in product(ways, shots):
            source = _tasks(test, tasks, n_way, n_shot, each_seed)
            found = {name: _scores(method, source, each_seed) for name, method in methods.items()}
            add("ways.csv", _rows(common | {"n_way": n_way, "n_shot": n_shot}, found))


def _methods(data: Path) -> dict[str, Method]:
    where = device()
    body = read_body(data / "body" / "body.safetensors").to(where)
    known = ("ltdi", *names(data)[1])
    return {name: read_method(data / "model" / "methods", name, body, where) for name in METHODS if name in known}


def _tasks(test: ClassTasks, n_tasks: int, n_way: int, n_shot: int, seed: int) -> ClassTasks:
    """New tasks of the classes of ``test``."""
    n_query = min(MOST_QUERIES, test.most_shots + 1 - n_shot)
    sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    return ClassTasks.sample(test.of, **sizes, seed=seed, split="meta_test ways").to(device())


def _scores(method: Method, source: ClassTasks, seed: int) -> Tensor:
    """Of each task (n_tasks,)."""

    def weights_of(context: Context) -> Tensor:
        return method.generate(context, generator=generator(seed, "noise"))

    return scores(method.learner, source, weights_of).cpu()


def _rows(common: dict[str, Any], found: dict[str, Tensor]) -> list[dict[str, Any]]:
    rows = [common | {"method": name} | summary(values) for name, values in found.items()]
    own, *others = found
    rows[0] |= compared(found[own], {name: found[name] for name in others})
    ahead = f"{rows[0]['paired_diff']:+.4f} ± {rows[0]['paired_ci95']:.4f} over {rows[0]['best_baseline']}"
    sizes = f"{common['n_way']} classes of {common['n_shot']}"
    say(f"{common['setting']} seed {common['seed']}, {sizes}: {rows[0]['accuracy']:.4f}, {ahead}")
    return rows
