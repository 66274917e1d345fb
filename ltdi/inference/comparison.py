"""Does a run pay on classes of one's own? Its method beside its baselines, on tasks drawn from labelled images.

Body, methods and hyperparameters are the run's; nothing is learned from the images but what a task's few examples say.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.inference.class_names import by_place
from ltdi.inference.model import Model
from ltdi.inference.user_images import embedded
from ltdi.methods.common.base import Method
from ltdi.tasks.base import batches
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.utils.console import say
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import mean_and_ci95

QUERIES = 15


@torch.no_grad()
def compare(
    run: Model,
    folder: Path,
    *,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int | None = None,
    n_tasks: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """A row for the run's method, then one for each baseline, the best first: ``method``; the ``accuracy`` on
    ``n_query`` further images of each class, 15 or what the largest class has where none is said, and half its 95 %
    interval over the tasks, ``ci95``; and ``ahead``, by how much the method is above it, paired over the same tasks,
    with ``ahead_ci95``.

    Tasks are of ``n_way`` of the folder's classes and ``n_shot`` images of each; of a class of too few images a fair
    share is asked. Methods that work on images, or on one number of classes alone, are left out, which is said.

    Raises:
        InputError: the run works on names, its method is one of those left out, the folder holds too few classes or
            too few images of one.
    """
    if run.is_from_names:
        raise InputError(f"{run.data} generates heads from names, and images say nothing to it; name another run")
    if n_tasks < 2:
        raise InputError(f"--tasks {n_tasks}; give two or more, which an interval needs")
    by_class = _read(folder, n_way)
    n_query, methods = _asked(folder, max(map(len, by_class.values())), n_shot, n_query), _comparable(run, n_way)
    seen: list[str] = []
    features = embedded(run.extractor, [file for files in by_class.values() for file in files], seen)
    _tell_copies(by_class, seen)
    classes = Classes(features, torch.tensor([len(files) for files in by_class.values()]))
    sizes = {"n_tasks": n_tasks, "n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    tasks = ClassTasks.sample(classes, **sizes, seed=seed, split="compare")
    scores = {name: _scores(method, tasks, run.noise(seed)) for name, method in methods.items()}
    return _table(run.name, scores)


def _tell_copies(by_class: Mapping[str, list], seen: list[str]) -> None:
    """Of copies one may be learned from and another asked."""
    rest, own = iter(seen), 0
    classes_of: dict[str, set[str]] = {}
    for name, files in by_class.items():
        counts = Counter(islice(rest, len(files)))
        own += sum(n - 1 for n in counts.values())
        for content in counts:
            classes_of.setdefault(content, set()).add(name)
    shared = sum(len(names) > 1 for names in classes_of.values())
    if own:
        say(
            f"{own} of {len(seen)} images are copies of others of their class: where one is learned from and another"
            " asked, the answer is known; accuracy is too high by that, take copies out"
        )
    if shared:
        say(f"{shared} images are in two classes or more, and one of the answers is wrong; take them out of one")


def told_of(table: pd.DataFrame) -> str:
    """What ``compare`` found, in a line."""
    own, *others = table.to_dict("records")
    if not others:
        return f"{own['method']}: {own['accuracy']:.4f} ± {own['ci95']:.4f}; the run has no baseline beside it"
    best = others[0]
    ahead, ci95 = best["ahead"], best["ahead_ci95"]
    told = f"{own['method']} − {best['method']}, the best baseline here: {ahead:+.4f} ± {ci95:.4f}"
    if abs(ahead) <= ci95:
        return f"{told}: no difference beyond chance"
    return f"{told}: it pays" if ahead > 0 else f"{told}: take the baseline"


def _comparable(run: Model, n_way: int) -> dict[str, Method]:
    """The run's own first."""
    found, left_out = {}, []
    for name in (run.name, *(each for each in run.names if each != run.name)):
        method = run.read(name)
        if method.from_images or (method.fixed_n_way and run.n_way(name) != n_way):
            left_out.append(name)
        else:
            found[name] = method
    if run.name in left_out:
        raise InputError(
            f"{run.name} works on images, or on tasks of {run.n_way(run.name)} classes alone, and is not compared;"
            f" choose another method, or --n-way {run.n_way(run.name)}"
        )
    if left_out:
        say(f"left out, for they work on images or on other numbers of classes: {', '.join(left_out)}")
    return found


def _read(folder: Path, n_way: int) -> dict[str, list]:
    """The image files of each class, enough of both."""
    by_class = by_place(folder)
    if n_way < 2 or n_way > len(by_class):
        raise InputError(f"--n-way {n_way}; {folder} holds {len(by_class)} classes, and two or more are told apart")
    counts = {name: len(files) for name, files in by_class.items()}
    few = min(counts, key=lambda name: counts[name])
    if counts[few] < 2:
        raise InputError(f"{folder / few} holds one image, and one is learned from and another asked; add some")
    return by_class


def _asked(folder: Path, most: int, n_shot: int, n_query: int | None) -> int:
    """How many images of a class are asked, of as many as the largest class has."""
    found = min(QUERIES, most - n_shot) if n_query is None else n_query
    if n_shot < 1 or found < 1 or n_shot + found > most:
        told = "" if n_query is None else f" --n-query {n_query}"
        raise InputError(
            f"--n-shot {n_shot}{told}: one or more are learned from and others asked, and the largest class of"
            f" {folder} has {most} images; lower one"
        )
    return found


def _scores(method: Method, tasks: ClassTasks, stream: torch.Generator) -> Tensor:
    """Accuracy of each task (M,)."""
    parts = (tasks.batch(part) for part in batches(len(tasks)))
    return torch.cat([method.learner.score(method.generate(t.context, generator=stream), t.query).cpu() for t in parts])


def _table(name: str, scores: Mapping[str, Tensor]) -> pd.DataFrame:
    own = scores[name]
    rows: list[dict[str, Any]] = []
    for each, values in scores.items():
        accuracy, ci95 = mean_and_ci95(values)
        ahead, ahead_ci95 = mean_and_ci95(own.double() - values.double())
        row = {"method": each, "accuracy": accuracy, "ci95": ci95}
        rows.append(row | {"ahead": ahead, "ahead_ci95": ahead_ci95})
    first, *others = rows
    return pd.DataFrame([first, *sorted(others, key=lambda row: -row["accuracy"])])
