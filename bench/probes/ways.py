"""``python -m bench ways``: one run's heads for tasks of other sizes than it was trained on -> ways.csv.

On the run's meta-test classes, beside the baselines that need no training.
"""

from itertools import product
from typing import Annotated

import typer

from bench import RUNS
from bench.harness.rows import add, compared, origin, scored, summary
from bench.harness.settings import ONE_SEED, RAW, Budget, Root, Runs, Seeds, Settings, variant_params
from bench.harness.stages import run_stages
from ltdi.bodies.registry import read_body
from ltdi.methods.storage import read_method
from ltdi.tasks.class_tasks import ClassTasks
from ltdi.trajectories.storage import load_sources, names
from ltdi.utils.console import say
from ltdi.utils.devices import device

METHODS = ("ltdi", "prototype", "ridge", "prototype_sgd")
"""The generator, and the baselines for any number of classes."""
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
    where = device()
    for place, each in product(setting, seed):
        params = variant_params(place, "ltdi", base="defaults", budget=budget, seed=each, root=root)
        data = run_stages(params, runs, until="meta_train")
        test = load_sources(data, splits=["meta_test"], device=where)["meta_test"]
        body, there = read_body(data / "body" / "body.safetensors").to(where), ("ltdi", *names(data)[1])
        methods = {n: read_method(data / "model" / "methods", n, body, where) for n in METHODS if n in there}
        for n_way, n_shot in product(ways, shots):
            sizes = {"n_way": n_way, "n_shot": n_shot}
            n_query = min(MOST_QUERIES, test.most_shots + 1 - n_shot)
            drawn = ClassTasks.sample(
                test.of, n_tasks=tasks, **sizes, n_query=n_query, seed=each, split="meta_test ways"
            )
            source = drawn.to(where)
            found = {name: scored(method, source, each).cpu() for name, method in methods.items()}
            about = {"setting": place, "budget": budget, "seed": each, **sizes, **origin()}
            rows = [about | {"method": name} | summary(values) for name, values in found.items()]
            own = found.pop("ltdi")
            rows[0] |= compared(own, found)
            ahead = f"{rows[0]['paired_diff']:+.4f} ± {rows[0]['paired_ci95']:.4f} over {rows[0]['best_baseline']}"
            say(f"{place} seed {each}, {n_way} classes of {n_shot}: {rows[0]['accuracy']:.4f}, {ahead}")
            add("ways.csv", rows)
