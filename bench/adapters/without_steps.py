"""Rows that take no step on a data set held out: what is generated for it, its audit, baselines; and linear probes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.adapters.data import Held, clock
from ltdi.bodies.sentence_encoder import sentence_encoder
from ltdi.inference.adapter_run import AdapterRun
from ltdi.initialization.closed_form import ridge_weights
from ltdi.learners import LinearHead
from ltdi.tasks.base import Context
from ltdi.utils.nn import zero
from ltdi.utils.seeding import generator

STEPS_PROBE, LR_PROBE = 300, 1e-2
Row = dict[str, Any]


def without_steps(run: AdapterRun, baselines: list[AdapterRun], held: Held, other: Held, seed: int) -> Iterator[Row]:
    """Rows of what is generated, of its audit and of the baselines."""
    right, stream = run.context(held.train, seed=seed), generator(seed, "random condition")

    def scored(what: str, w: Tensor, seconds: float = 0.0) -> Row:
        return held.row(what, run.score(w, held.dev), seconds)

    def generated(of: AdapterRun, context: Context) -> tuple[Tensor, float]:
        started = clock()
        w = of.method.generate(context, generator=generator(seed, "noise"))
        return w, clock() - started

    even, seconds = generated(run, right)
    yield scored("generated", run.counted(even, held.train), seconds)
    yield scored("generated_cut", run.cut(even, held.train), seconds)
    wrong = {"shuffled": run.context(other.train, seed=seed), "random": noise_like(right, stream)}
    for what, context in wrong.items():
        w, seconds = generated(run, context)
        yield scored(what, run.counted(w, held.train), seconds)
    initialization = run.method.initialization
    unchanged = {"start": initialization.shared[None], "centre": initialization.centre(right)}
    unchanged |= {each.name: generated(each, right)[0] for each in baselines}
    for what, w in unchanged.items():
        yield scored(what, run.counted(w, held.train))
        # of the start and its centre, which differ by their biases alone, the same
        if what != "centre":
            yield scored(f"{what}_cut", run.cut(w, held.train))
    yield scored("generated_even", even)
    yield scored("start_even", unchanged["start"])
    yield held.row("ridge", _ridge(right, held), 0.0)
    for what, accuracy in by_similarity(run, held, seed).items():
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
    """The accuracy of ridge regression, penalty 1, on the embeddings of the support set, at unit length."""
    learner = LinearHead(context.rows.shape[-1])
    w = ridge_weights(learner, replace(context, rows=F.normalize(context.rows, dim=-1)), 1.0, 1.0)
    query = {"inputs": F.normalize(held.dev["embedding"], dim=-1), "labels": held.dev["labels"]}
    return learner.score(w, query).item()


def by_similarity(run: AdapterRun, held: Held, seed: int) -> dict[str, float]:
    """Accuracies of the cosine of a pair's embeddings, cut in the middle of the classes' means over the support set
    ("likeness"), or so that the share of train's pairs above is that of their labels ("likeness_counted"). None of
    single texts."""
    if len(held.texts["train"][0][0]) != 2:
        return {}
    train, dev = (_similarity(run, held.texts[part][0]) for part in ("train", "dev"))
    labels, query = held.train["labels"][0].to(train.device), held.dev["labels"][0].to(train.device)
    few = run.few(held.train, seed=seed).to(train.device)
    low, high = train[few].mean(1).tolist()
    cuts = {"likeness": (low + high) / 2, "likeness_counted": train.quantile(1 - labels.float().mean()).item()}
    return {what: ((dev > cut) == (query == 1)).float().mean().item() for what, cut in cuts.items()}


def _similarity(run: AdapterRun, texts: list[tuple[str, ...]]) -> Tensor:
    """(M,)"""
    first, second = (sentence_encoder(run.learner.body)([each[j] for each in texts]) for j in (0, 1))
    return (first * second).sum(-1)


def probes(run: AdapterRun, held: Held, seed: int) -> Iterator[Row]:
    """Logistic regression on the frozen model's embeddings, of the support set and of train."""
    few = run.context(held.train, seed=seed)
    assert few.examples is not None
    of = {"probe_few": (few.rows.flatten(1, 2)[0], few.examples["labels"][0])}
    of |= {"probe": (held.train["embedding"][0], held.train["labels"][0])}
    for what, (rows, labels) in of.items():
        started = clock()
        probe = zero(torch.nn.Linear(rows.shape[1], 2, device=rows.device))
        optimizer = torch.optim.Adam(probe.parameters(), lr=LR_PROBE, weight_decay=1e-3)
        for _ in range(STEPS_PROBE):
            F.cross_entropy(probe(rows), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds = clock() - started
        right = probe(held.dev["embedding"][0]).argmax(-1) == held.dev["labels"][0]
        yield held.row(what, right.float().mean().item(), seconds, STEPS_PROBE)
