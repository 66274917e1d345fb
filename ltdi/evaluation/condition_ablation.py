"""Condition ablation: does conditioning on the task matter, and does the generator do more than copy training weights?

Weights generated for the right condition are compared with those for wrong ones, and with training weights: their
mean, the nearest one, and noise around these (Zeng et al. 2025, "Generative Modeling of Weights: Generalization or
Memorization?").
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
"""Name of the condition that is the task's own context."""
MAX_TRAINING_TASKS = 1000
"""Number of training tasks among whose weights the mean and the nearest are taken."""

# -- conditions --------------------------------------------------------------------------------------


def another_task(context: Context, stream: torch.Generator) -> Context:
    """Give each task the context of the next one in the batch."""
    return context[torch.arange(len(context), device=context.rows.device).roll(-1)]


def permute_classes(context: Context, stream: torch.Generator) -> Context:
    """Put the support set of class n + 1 into slot n: the right classes in the wrong order."""
    n_way, examples = context.n_way, context.examples
    if examples is not None:
        examples = map_batch(lambda value: value.unflatten(1, (n_way, -1)).roll(-1, 1).flatten(1, 2), examples)
        labels = examples["labels"]
        examples["labels"] = torch.where(labels < 0, labels, (labels - 1) % n_way)
    moved = (None if each is None else each.roll(-1, 1) for each in (context.mask, context.known))
    return Context(context.rows.roll(-1, 1), next(moved), examples, next(moved), context.unlabelled)


def random_condition(context: Context, stream: torch.Generator) -> Context:
    """Replace features by normal noise with the mean and standard deviation of each over these tasks."""
    return _fill(context, lambda value: _random_like(value, stream))


def zero_condition(context: Context, stream: torch.Generator) -> Context:
    """Replace features by zeros."""
    return _fill(context, torch.zeros_like)


CONDITIONS: dict[str, Callable[[Context, torch.Generator], Context]] = {
    RIGHT: lambda context, stream: context,
    "another task's": another_task,
    "classes permuted": permute_classes,
    "random": random_condition,
    "none": zero_condition,
}
"""Conditions by the name in the table: (context, generator) -> context."""


def _fill(context: Context, fill: Callable[[Tensor], Tensor]) -> Context:
    """Replace the rows of the context and of its labelled examples; labels and masks stay."""
    rows, examples = fill(context.rows), context.examples
    if examples is not None:
        changed = {name: value for name, value in examples.items() if name not in ("labels", "mask")}
        changed = {name: fill(value) for name, value in changed.items()}
        if "inputs" in changed:  # these are the rows
            changed["inputs"] = rows.flatten(1, 2)
        examples = dict(examples) | changed
    return replace(context, rows=rows, examples=examples, known=None)


def _random_like(value: Tensor, stream: torch.Generator) -> Tensor:
    """Draw uniform bytes in place of images, normal noise in place of features (…, C)."""
    if not value.is_floating_point():
        return torch.randint(0, 256, value.shape, generator=stream).to(value)
    flat = value.flatten(0, -2)
    noise = torch.randn(value.shape, generator=stream).to(value)
    return flat.mean(0) + flat.std(0, correction=0) * noise


# -- a run -------------------------------------------------------------------------------------------


@exact()
@torch.no_grad()
def compare_conditions(data: Path, *, method: str = "", n_tasks: int = 500, seed: int = 0) -> pd.DataFrame:
    """Score a run's weights under each condition and training weights on meta-test tasks; return a table, a row each.

    Columns: ``weights``, the condition or kind of training weights; ``score``, its mean, with ``ci95``, half its 95 %
    interval; ``difference``, paired, to the score under the right condition, with ``difference_ci95``; ``distance2``,
    the weight MSE to the weights generated under the right condition. Scores are NaN where weights are not finite.
    Training weights are compared if they are of the same learner and of enough classes.

    Args:
        data: folder of a finished run.
        method: name of a method or baseline of the run; "" for the trained method.
        n_tasks: the first so many meta-test tasks.
        seed: of the noise.

    Raises:
        InputError: the folder holds no finished run, or not that method, or fewer than two tasks are compared.
    """
    where = device()
    model = _read_method(data, method, where)
    images_of = ["meta_test"] if model.from_images else []
    test = load_sources(data, splits=["meta_test"], images_of=images_of, device=where)["meta_test"]
    if n_tasks < 2 or len(test) < 2:
        raise InputError(f"--tasks {n_tasks}, of {len(test)} meta-test tasks; two or more are compared")
    say_fewer("--tasks", n_tasks, len(test), "meta-test tasks")
    training = _Training.of(data, model, test.n_way)
    found: dict[str, list[Tensor]] = {}
    distances: dict[str, list[Tensor]] = {}
    stream = generator(seed, "audit")
    for tasks in _evenly(min(n_tasks, len(test))):
        task = test.batch(tasks)
        right = model.generate(task.context, generator=generator(seed, "noise"))
        for name, w in _weights(model, task.context, right, training, stream, seed):
            score = model.learner.score(w, task.query).double()
            finite = w.isfinite().all(1)
            found.setdefault(name, []).append(torch.where(finite, score, torch.nan).cpu())
            distances.setdefault(name, []).append(weight_mse(w, right).double().cpu())
    scores = {name: torch.cat(parts) for name, parts in found.items()}
    return pd.DataFrame([_row(name, scores, torch.cat(distances[name])) for name in scores])


def _read_method(data: Path, method: str, where: torch.device) -> Method:
    name = method_of_run(data, method)
    # a learner of adapters contains its frozen model
    of_images = load_initialization(data)[2]["source"] != "texts"
    body = read_body(data / "body" / "body.safetensors") if of_images else None
    return read_method(data / "model" / "methods", name, body, where)


def _evenly(n_tasks: int) -> tuple[Tensor, ...]:
    """Split task numbers into batches of at most 64 and at least two: ``another_task`` needs a second one."""
    return torch.arange(n_tasks).tensor_split(-(-n_tasks // 64))


def _weights(
    method: Method, context: Context, right: Tensor, training: "_Training | None", stream: torch.Generator, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield each kind of weights (B, D) with its name. All are generated from the same noise."""
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
    """Weights of the first training tasks, cut to the first ``n_way`` classes."""

    def __init__(self, trajectories: Trajectories, space: WeightSpace, n_way: int) -> None:
        self.trajectories, self.space, self.n_way = trajectories, space, n_way
        self.parts = batches(min(len(trajectories), MAX_TRAINING_TASKS))
        total = torch.stack([self.weights(part).double().sum(0) for part in self.parts]).sum(0)
        self.mean = total / sum(map(len, self.parts))

    @classmethod
    def of(cls, data: Path, method: Method, n_way: int) -> "_Training | None":
        """Load them; None if they are of another learner than the method's weights, or of fewer classes."""
        trajectories, _ = load_trajectories(data, "meta_train")
        if method.learner is not method.initialization.learner or trajectories.dim < method.space.dim(n_way):
            return None
        return cls(trajectories, method.space, n_way)

    def weights(self, tasks: Tensor) -> Tensor:
        """Return the trained weights of these tasks (B, D)."""
        return self.space.some_slots(self.trajectories.trained(tasks), self.n_way)

    def nearest(self, w: Tensor) -> Tensor:
        """Return the training weights nearest to each of w (B, D) by Euclidean distance: (B, D)."""
        away = torch.cat([torch.cdist(w, self.weights(part).to(w)) for part in self.parts], 1)
        return self.weights(away.argmin(1)).to(w)


def _around(centre: Tensor, w: Tensor, space: WeightSpace, stream: torch.Generator) -> Tensor:
    """Draw noise around ``centre`` (B, D) at the distance of ``w`` from it in every layer: (B, D)."""
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


def describe_conditions(table: pd.DataFrame) -> str:
    """Summarise the table of ``compare_conditions`` in one line: is the right condition significantly best?"""
    others = table[table.weights != RIGHT].dropna()
    close = others[~(others.difference < -others.difference_ci95)].weights.tolist()
    if close:
        return f"weights for the right condition are not ahead beyond chance of: {', '.join(close)}"
    return "the condition matters: its weights are ahead of all others beyond chance, paired over the tasks"
