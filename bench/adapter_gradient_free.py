"""What takes no step on a data set held out, beside what is generated for it; and probes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.adapter_data import Held, clock
from bench.adapter_likeness import of_likeness
from ltdi.inference.adapter_run import AdapterRun
from ltdi.initialization.closed_form import ridge_weights
from ltdi.learners import LinearHead
from ltdi.tasks.base import Context
from ltdi.utils.nn import zero
from ltdi.utils.seeding import generator

STEPS_PROBE, LR_PROBE = 300, 1e-2


def without_steps(
    run: AdapterRun, baselines: list[AdapterRun], held: Held, other: Held, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of what is generated, of its audit and of the baselines."""
    right = run.context(held.train, seed=seed)
    stream = generator(seed, "random condition")

    def scored(what: str, w: Tensor, seconds: float = 0.0) -> dict[str, Any]:
        return held.row(what, run.score(w, held.dev), seconds)

    def generated(of: AdapterRun, context: Context) -> tuple[Tensor, float]:
        started = clock()
        w = of.method.generate(context, generator=generator(seed, "noise"))
        return w, clock() - started

    even, seconds = generated(run, right)
    yield scored("generated", run.counted(even, held.train), seconds)
    yield scored("generated_cut", run.cut(even, held.train), seconds)
    for what, context in {
        "shuffled": run.context(other.train, seed=seed),
        "random": noise_like(right, stream),
    }.items():
        w, seconds = generated(run, context)
        yield scored(what, run.counted(w, held.train), seconds)
    start, centre = run.method.initialization.shared[None], run.method.initialization.centre(right)
    unchanged = {"start": start, "centre": centre}
    for each in baselines:
        unchanged[each.name], _ = generated(each, right)
    for what, w in unchanged.items():
        yield scored(what, run.counted(w, held.train))
        # of the start and its centre, which differ by their biases alone, the same
        if what != "centre":
            yield scored(f"{what}_cut", run.cut(w, held.train))
    yield scored("generated_even", even)
    yield scored("start_even", start)
    yield held.row("ridge", _ridge(right, held), 0.0)
    for what, accuracy in of_likeness(run, held, seed).items():
        yield held.row(what, accuracy, 0.0)
    labels = held.dev["labels"][0].float()
    yield held.row("majority", max(labels.mean().item(), 1 - labels.mean().item()), 0.0)


def noise_like(context: Context, stream: torch.Generator) -> Context:
    """Noise with the mean and the deviation of all numbers of the rows, and of what the model reads, where that is
    tokens, any of these; labels stay."""

    def noise(of: Tensor) -> Tensor:
        if not of.is_floating_point():
            tokens = of.flatten(0, -2)
            return tokens[torch.randint(len(tokens), of.shape[:-1], generator=stream).to(of.device)]
        return of.mean() + of.std() * torch.randn(of.shape, generator=stream).to(of)

    examples = context.examples
    assert examples is not None
    return replace(context, rows=noise(context.rows), examples={**examples, "hidden": noise(examples["hidden"])})


def _ridge(context: Context, held: Held) -> float:
    """Of ridge regression on the embeddings of the few examples, at unit length, its penalty 1: no step is taken."""
    few = replace(context, rows=torch.nn.functional.normalize(context.rows, dim=-1))
    learner = LinearHead(context.rows.shape[-1])
    w = ridge_weights(learner, few, 1.0, 1.0)
    asked = {"inputs": torch.nn.functional.normalize(held.dev["embedding"], dim=-1), "labels": held.dev["labels"]}
    return learner.score(w, asked).item()


def probes(run: AdapterRun, held: Held, seed: int) -> Iterator[dict[str, Any]]:
    """Logistic regression on the frozen model's embeddings, of the few examples and of train."""
    few = run.context(held.train, seed=seed)
    assert few.examples is not None
    known = {"probe_few": (few.rows.flatten(1, 2)[0], few.examples["labels"][0])}
    known |= {"probe": (held.train["embedding"][0], held.train["labels"][0])}
    for what, (rows, labels) in known.items():
        started = clock()
        probe = _probe(rows, labels)
        seconds = clock() - started
        right = probe(held.dev["embedding"][0]).argmax(-1) == held.dev["labels"][0]
        yield held.row(what, right.float().mean().item(), seconds, STEPS_PROBE)


def _probe(rows: Tensor, labels: Tensor) -> torch.nn.Module:
    probe = zero(torch.nn.Linear(rows.shape[1], 2, device=rows.device))
    optimizer = torch.optim.Adam(probe.parameters(), lr=LR_PROBE, weight_decay=1e-3)
    for _ in range(STEPS_PROBE):
        torch.nn.functional.cross_entropy(probe(rows), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe
