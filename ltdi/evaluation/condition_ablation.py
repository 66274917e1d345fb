"""Does the condition matter? A run's weights for the right condition beside those for wrong ones, and beside training
weights that know nothing of the task.

The mean, the nearest and noise around them: Zeng et al. 2025, "Generative Modeling of Weights: Generalization or
Memorization?".
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.bodies.registry import read_body
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.tasks.base import Context, batches
from ltdi.tasks.batch import map_batch
from ltdi.trajectories.collection import Trajectories
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories, method_of_run
from ltdi.utils.console import say_fewer
from ltdi.utils.devices import device, exact
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import mean_and_ci95, weight_mse
from ltdi.utils.seeding import generator

RIGHT = "right"
MOST_TRAINING = 1000
"""How many training tasks' weights the mean and the nearest are of."""

# -- conditions --------------------------------------------------------------------------------------


def another_tasks(context: Context, stream: torch.Generator) -> Context:
    """Each task is given what is known of the next."""
    return context[torch.arange(len(context), device=context.rows.device).roll(-1)]


def classes_permuted(context: Context, stream: torch.Generator) -> Context:
    """What is known of class n + 1 stands in slot n: right in everything but which class is which."""
    n_way, examples = context.n_way, context.examples
    if examples is not None:
        examples = map_batch(lambda value: value.unflatten(1, (n_way, -1)).roll(-1, 1).flatten(1, 2), examples)
        labels = examples["labels"]
        examples["labels"] = torch.where(labels < 0, labels, (labels - 1) % n_way)
    moved = (None if each is None else each.roll(-1, 1) for each in (context.mask, context.known))
    return Context(context.rows.roll(-1, 1), next(moved), examples, next(moved), context.unlabelled)


def random(context: Context, stream: torch.Generator) -> Context:
    """Noise with the mean and the deviation that each number has over these tasks."""
    return _filled(context, lambda value: _like(value, stream))


def none(context: Context, stream: torch.Generator) -> Context:
    """Zeros."""
    return _filled(context, torch.zeros_like)


CONDITIONS: dict[str, Callable[[Context, torch.Generator], Context]] = {
    RIGHT: lambda context, stream: context,
    "another task's": another_tasks,
    "classes permuted": classes_permuted,
    "random": random,
    "none": none,
}


def _filled(context: Context, fill: Callable[[Tensor], Tensor]) -> Context:
    """The context with other rows, and the same in its examples; labels and masks stay."""
    rows, examples = fill(context.rows), context.examples
    if examples is not None:
        changed = {name: value for name, value in examples.items() if name not in ("labels", "mask")}
        changed = {name: fill(value) for name, value in changed.items()}
        if "inputs" in changed:  # these are the rows
            changed["inputs"] = rows.flatten(1, 2)
        examples = dict(examples) | changed
    return replace(context, rows=rows, examples=examples, known=None)


def _like(value: Tensor, stream: torch.Generator) -> Tensor:
    """Of images, bytes drawn evenly; of numbers (…, C), normal ones."""
    if not value.is_floating_point():
        return torch.randint(0, 256, value.shape, generator=stream).to(value)
    flat = value.flatten(0, -2)
    noise = torch.randn(value.shape, generator=stream).to(value)
    return flat.mean(0) + flat.std(0, correction=0) * noise


# -- a run -------------------------------------------------------------------------------------------


@exact()
@torch.no_grad()
def audit_run(data: Path, *, method: str = "", n_tasks: int = 500, seed: int = 0) -> pd.DataFrame:
    """A row for each kind of weights, over the first ``n_tasks`` meta-test tasks: ``weights``; the ``score`` and half
    its 95 % interval, ``ci95``; ``difference`` to the right condition's, paired, with ``difference_ci95``; and
    ``distance2``, the mean squared difference of the weights from those of the right condition. A row is NaN where
    weights for it are not finite.

    Rows of training weights are there where these are of the learner that the method's are of, and of as many classes.

    Raises:
        InputError: the folder holds no finished run, or not that method, or fewer than two tasks are asked for.
    """
    where = device()
    audited = _read(data, method, where)
    images_of = ["meta_test"] if audited.from_images else []
    test = load_sources(data, splits=["meta_test"], images_of=images_of, device=where)["meta_test"]
    if n_tasks < 2 or len(test) < 2:
        raise InputError(f"--tasks {n_tasks}, of {len(test)} meta-test tasks; two or more are compared")
    say_fewer("--tasks", n_tasks, len(test), "meta-test tasks")
    training = _Training.of(data, audited, test.n_way)
    found: dict[str, list[Tensor]] = {}
    distances: dict[str, list[Tensor]] = {}
    stream = generator(seed, "audit")
    for tasks in _evenly(min(n_tasks, len(test))):
        task = test.batch(tasks)
        right = audited.generate(task.context, generator=generator(seed, "noise"))
        for name, w in _weights(audited, task.context, right, training, stream, seed):
            score = audited.learner.score(w, task.query).double()
            finite = w.isfinite().all(1)
            found.setdefault(name, []).append(torch.where(finite, score, torch.nan).cpu())
            distances.setdefault(name, []).append(weight_mse(w, right).double().cpu())
    scores = {name: torch.cat(parts) for name, parts in found.items()}
    return pd.DataFrame([_row(name, scores, torch.cat(distances[name])) for name in scores])


def _read(data: Path, method: str, where: torch.device) -> Method:
    name = method_of_run(data, method)
    # adapters hold their frozen model themselves
    of_images = load_initialization(data)[2]["source"] != "texts"
    body = read_body(data / "body" / "body.safetensors") if of_images else None
    return read_method(data / "model" / "methods", name, body, where)


def _evenly(n_tasks: int) -> tuple[Tensor, ...]:
    """Parts of 64 at most and never of one task, so that each has another."""
    return torch.arange(n_tasks).tensor_split(-(-n_tasks // 64))


def _weights(
    method: Method, context: Context, right: Tensor, training: "_Training | None", stream: torch.Generator, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Each kind of weights (B, D) by its name. All are generated from the same noise."""
    for name, wrong in CONDITIONS.items():
        if name == RIGHT:
            yield name, right
        elif name != "classes permuted" or context.n_way > 1:
            yield name, method.generate(wrong(context, stream), generator=generator(seed, "noise"))
    if training is not None:
        kinds = {"mean of the training weights": training.mean.to(right).expand_as(right)}
        kinds["nearest training weights"] = training.nearest(right)
        yield from kinds.items()
        for name, w in kinds.items():
            yield (
                f"noise around the {name.removesuffix(' of the training weights')}",
                _around(w, right, method.space, stream),
            )


class _Training:
    """The first training tasks' weights, cut to as many classes."""

    def __init__(self, trajectories: Trajectories, space: WeightSpace, n_way: int) -> None:
        self.trajectories, self.space, self.n_way = trajectories, space, n_way
        self.parts = batches(min(len(trajectories), MOST_TRAINING))
        total = torch.stack([self.weights(part).double().sum(0) for part in self.parts]).sum(0)
        self.mean = total / sum(map(len, self.parts))

    @classmethod
    def of(cls, data: Path, method: Method, n_way: int) -> "_Training | None":
        """None where they do not fit the method's weights for tasks of ``n_way`` classes."""
        trajectories, _ = load_trajectories(data, "meta_train")
        if method.learner is not method.initialization.learner or trajectories.dim < method.space.dim(n_way):
            return None
        return cls(trajectories, method.space, n_way)

    def weights(self, tasks: Tensor) -> Tensor:
        return self.space.some_slots(self.trajectories.trained(tasks), self.n_way)

    def nearest(self, w: Tensor) -> Tensor:
        """To each of the weights (B, D), by Euclidean distance."""
        away = torch.cat([torch.cdist(w, self.weights(part).to(w)) for part in self.parts], 1)
        return self.weights(away.argmin(1)).to(w)


def _around(centre: Tensor, w: Tensor, space: WeightSpace, stream: torch.Generator) -> Tensor:
    """Noise around ``centre`` (B, D) that is in each layer as far from it as ``w`` is."""
    noise = space.tokens(torch.randn(w.shape, generator=stream).to(w))
    away = space.tokens(w - centre)
    size = {
        layer: away[layer].norm(dim=(-2, -1), keepdim=True) / noise[layer].norm(dim=(-2, -1), keepdim=True)
        for layer in away
    }
    return centre + space.from_tokens({layer: size[layer] * noise[layer] for layer in noise})


def _row(name: str, scores: dict[str, Tensor], distances: Tensor) -> dict[str, Any]:
    score, ci95 = mean_and_ci95(scores[name])
    difference, of_difference = mean_and_ci95(scores[name] - scores[RIGHT])
    values = {"weights": name, "score": score, "ci95": ci95}
    return values | {
        "difference": difference,
        "difference_ci95": of_difference,
        "distance2": distances.mean().item(),
    }


def told_of_run(table: pd.DataFrame) -> str:
    """What ``audit_run`` found, in a line: whether weights for the right condition are ahead of all others."""
    others = table[table.weights != RIGHT].dropna()
    close = others[~(others.difference < -others.difference_ci95)].weights.tolist()
    if close:
        return f"weights for the right condition are not ahead beyond chance of: {', '.join(close)}"
    return "the condition matters: its weights are ahead of all others beyond chance, paired over the tasks"
