"""``python -m bench adapters``: adapters for data sets held out whole, beside what takes no step on them, and LoRA from
scratch (the paper's Table 5) -> bench/results/adapters.tsv and adapters.md.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import BENCH, dylora
from bench.machine import origin
from bench.settings import defaults, load_yaml, override
from bench.stages import run_stages
from bench.text import percent, table
from ltdi.adaptation import adapt
from ltdi.adapter import AdapterRun, shuffled
from ltdi.artefacts import names
from ltdi.console import say
from ltdi.datasets.texts import TextSet, read_text_set, thinned
from ltdi.learner import Batch
from ltdi.learners import LinearHead
from ltdi.seeding import generator
from ltdi.starts.base import shared_draw
from ltdi.starts.closed_form import ridge_weights
from ltdi.store import write_text, write_tsv
from ltdi.tasks import Context

BUDGETS = BENCH / "adapters.yaml"
RESULTS = BENCH / "results"
STEPS_FEW, STEPS_PROBE, LR, LR_PROBE = 50, 300, 2e-3, 1e-2
NO_STEP = {"majority": "majority class", "mean_head": "mean of the training adapters"}
NO_STEP |= {"nearest_head": "nearest training adapter", "start": "one adapter for all training tasks (the start)"}
NO_STEP |= {"qqp": "QQP's adapter, unchanged", "ridge": "ridge on the few examples' embeddings"}
AUDIT = {"shuffled": "{}, condition of another data set", "random": "{}, random condition"}
TRAINED = {"probe_few": "linear probe on the few examples", "probe": "linear probe on train"}
TRAINED |= {
    "lora_few": "LoRA on the few examples",
    "lora": "LoRA on train",
    "dylora": "DyLoRA on train",
    "start_then": "one adapter for all training tasks, then LoRA's steps on train",
    "then": "{}, then LoRA's steps on train",
}
REPORTED = {
    "MRPC": "full 90.24, LoRA 89.76, AdaLoRA 88.71, DyLoRA 89.59, FourierFT 90.03, Lv-Di 88.15, Lt-Di 89.03",
    "QNLI": "full 92.84, LoRA 93.32, AdaLoRA 93.17, DyLoRA 92.21, FourierFT 92.25, Lv-Di 90.96, Lt-Di 91.52",
}


@dataclass(frozen=True, eq=False)
class Held:
    """A data set held out: its examples as the frozen model reads them, and a row of the results from what is found."""

    name: str
    train: Batch
    dev: Batch
    about: dict[str, Any]

    def row(self, what: str, accuracy: float, seconds: float, steps: int = 0) -> dict[str, Any]:
        n = self.dev["labels"].shape[1]
        return self.about | {"what": what, "steps": steps, "accuracy": accuracy, "n": n, "seconds": seconds}


def main(
    root: Annotated[Path, typer.Option(help="GLUE's folder, or a zip of it.")],
    body: Annotated[str, typer.Option(help="A folder of transformers, or a name on the hub.")],
    seed: Annotated[list[int], typer.Option(help="Of the generator.")] = [0],  # noqa: B006
    budget: Annotated[str, typer.Option(help="cpu or full, of bench/adapters.yaml.")] = "cpu",
    method: Annotated[str, typer.Option(help="What generates.")] = "ltdi",
) -> None:
    knobs = load_yaml(BUDGETS)[budget]
    rows: list[dict[str, Any]] = []
    for each in seed:
        changes = {"seed": each, "texts.root": str(root), "texts.body": body, "method.name": method}
        data = run_stages(override(defaults(), knobs["overrides"] | changes))
        rows += measure(data, root, seed=each, steps=knobs["lora_steps"], most=knobs["most"])
    report(pd.DataFrame(rows), method)


def measure(data: Path, root: Path, *, seed: int, steps: list[int], most: int) -> list[dict[str, Any]]:
    """Rows of all that is compared on the data sets held out; LoRA is scored after each of ``steps``."""
    run = AdapterRun(data)
    controls = [AdapterRun(data, method=each) for each in names(data)[1] if each in NO_STEP]
    sets = [_held(run, read_text_set(root, name), seed, most) for name in REPORTED]
    qqp = run.read_texts(*_few(read_text_set(root, "QQP"), "train", most, seed))
    of_qqp = run.train(_scratch(run, seed), qqp, steps=steps[-1], lr=LR, seed=seed)
    rows: list[dict[str, Any]] = []
    for held, other in zip(sets, sets[1:] + sets[:1]):
        say(f"{held.name}, seed {seed}")
        rows += _without_steps(run, controls, held, other, seed)
        rows.append(held.row("qqp", run.score(of_qqp, held.dev), 0.0))
        rows += _probes(run, held, seed)
        rows += _with_steps(run, held, steps, seed)
    return rows


def _held(run: AdapterRun, of: TextSet, seed: int, most: int) -> Held:
    """Of train as many of each class, of dev the first as they come, at most so many."""
    train = run.read_texts(*_few(of, "train", most, seed))
    dev = run.read_texts(of.texts["dev"][:most], of.labels["dev"][:most])
    about = {"data_set": of.name, "seed": seed, "body": Path(run.learner.body).name, **origin()}
    return Held(of.name, train, dev, about | {"train": train["labels"].shape[1], "n_shot": run.n_shot})


def _few(of: TextSet, part: str, most: int, seed: int) -> tuple[list, Tensor]:
    return thinned(of.texts[part], of.labels[part], most, seed)


def _without_steps(
    run: AdapterRun, controls: list[AdapterRun], held: Held, other: Held, seed: int
) -> Iterator[dict[str, Any]]:
    right = run.context(held.train, seed=seed)
    swapped = run.context(other.train, seed=seed)
    stream = generator(seed, "random condition")
    noise = right.rows.mean() + right.rows.std() * torch.randn(right.rows.shape, generator=stream).to(right.rows)

    def generated(of: AdapterRun, what: str, context: Context) -> dict[str, Any]:
        started = time.perf_counter()
        w = of.method.generate(context, generator=generator(seed, "noise"))
        return held.row(what, of.score(w, held.dev), time.perf_counter() - started)

    yield generated(run, "generated", right)
    yield generated(run, "shuffled", replace(right, rows=swapped.rows))
    yield generated(run, "random", replace(right, rows=noise))
    for each in controls:
        yield generated(each, each.name, right)
    yield held.row("start", run.score(_start(run), held.dev), 0.0)
    yield held.row("ridge", _ridge(right, held.dev), 0.0)
    labels = held.dev["labels"][0].float()
    yield held.row("majority", max(labels.mean().item(), 1 - labels.mean().item()), 0.0)


def _ridge(context: Context, dev: Batch) -> float:
    """Of ridge regression on the embeddings of the few examples, at unit length, its penalty 1: no step is taken."""
    few = replace(context, rows=torch.nn.functional.normalize(context.rows, dim=-1))
    learner = LinearHead(context.rows.shape[-1])
    w = ridge_weights(learner, few, 1.0, 1.0)
    asked = {"inputs": torch.nn.functional.normalize(dev["embedding"], dim=-1), "labels": dev["labels"]}
    return learner.score(w, asked).item()


def _probes(run: AdapterRun, held: Held, seed: int) -> Iterator[dict[str, Any]]:
    """Logistic regression on the frozen model's embeddings, and LoRA, of the few examples; the probe of train too."""
    few = run.context(held.train, seed=seed)
    assert few.examples is not None
    known = {"probe_few": (few.rows.flatten(1, 2)[0], few.examples["labels"][0])}
    known |= {"probe": (held.train["embedding"][0], held.train["labels"][0])}
    for what, (rows, labels) in known.items():
        started = time.perf_counter()
        probe = _probe(rows, labels)
        right = probe(held.dev["embedding"][0]).argmax(-1) == held.dev["labels"][0]
        yield held.row(what, right.float().mean().item(), time.perf_counter() - started, STEPS_PROBE)
    started = time.perf_counter()
    w = run.train(_scratch(run, seed), few.examples, steps=STEPS_FEW, lr=LR, seed=seed)
    yield held.row("lora_few", run.score(w, held.dev), time.perf_counter() - started, STEPS_FEW)


def _probe(rows: Tensor, labels: Tensor) -> torch.nn.Module:
    probe = torch.nn.Linear(rows.shape[1], 2)
    torch.nn.init.zeros_(probe.weight)
    optimizer = torch.optim.Adam(probe.parameters(), lr=LR_PROBE, weight_decay=1e-3)
    for _ in range(STEPS_PROBE):
        torch.nn.functional.cross_entropy(probe(rows), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe


def _with_steps(run: AdapterRun, held: Held, steps: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """LoRA's steps on train, from scratch, from the start and from the generated adapter; DyLoRA's. Each is trained
    once, and scored after some of the steps; seconds are those of the steps up to there."""
    generated = run.generate(held.train, seed=seed)
    starts = {"lora": _scratch(run, seed), "start_then": _start(run), "then": generated}
    if torch.equal(generated, _start(run)):  # nothing was generated but the start
        del starts["start_then"]
    for what, start in starts.items():
        batches = shuffled(held.train, 32, generator(seed, "steps"))
        started = time.perf_counter()
        path = adapt(run.learner.loss, start, batches, optimizer="adam", lr=LR, record=steps)
        seconds = time.perf_counter() - started
        for j, n in enumerate(steps):
            yield held.row(what, run.score(path.weights[:, j], held.dev), seconds * n / steps[-1], n)
    batches = shuffled(held.train, 32, generator(seed, "steps"))
    started, ranks = time.perf_counter(), generator(seed, "ranks")
    trained = dylora.train(run.learner, _scratch(run, seed), batches, steps=steps[-1], lr=LR, stream=ranks)
    yield held.row("dylora", run.score(trained, held.dev), time.perf_counter() - started, steps[-1])


def _start(run: AdapterRun) -> Tensor:
    return run.method.start.shared[None]


def _scratch(run: AdapterRun, seed: int) -> Tensor:
    """As LoRA begins."""
    return shared_draw(run.learner, 2, seed)[None].to(run.device)


def report(rows: pd.DataFrame, method: str) -> None:
    write_tsv(RESULTS / "adapters.tsv", rows)
    write_text(RESULTS / "adapters.md", markdown(rows, method))


def markdown(rows: pd.DataFrame, method: str) -> str:
    """The table: what takes no step on train, sorted, so that a generated adapter below a control stands below it; then
    what does."""
    first = rows.iloc[0]
    parts = [
        "# Adapters for data sets held out whole, accuracy on dev in percent\n",
        f"LoRA matrices and head of {first.body}, generated by {method} from {first.n_shot} examples of each class."
        f" Train: {first.train} examples, as many of each class; seeds {', '.join(map(str, rows.seed.unique()))};"
        f" machine: {first.device}. ± is the 95 % interval over dev's texts. LoRA has Adam's steps of 32 examples, all"
        " after the last one scored; its steps are those of the row.\n",
    ]
    for name, part in rows.groupby("data_set", sort=False):
        found = part.groupby(["what", "steps"]).agg({"accuracy": "mean", "seconds": "mean", "n": "first"}).reset_index()
        labels = {"generated": f"**{method}**"} | NO_STEP | TRAINED | AUDIT
        free = found[~found.what.isin(list(TRAINED))].sort_values("accuracy", ascending=False)
        taught = found[found.what.isin(list(TRAINED))].sort_values(["what", "steps"])
        parts.append(f"## {name}, {found.n.iloc[0]} texts of dev\n")
        for kind, each in (("no step on the task", free), ("steps on the task", taught)):
            cells = [
                [
                    labels[row["what"]].format(method),
                    str(row["steps"]),
                    percent(row["accuracy"], 1.96 * (row["accuracy"] * (1 - row["accuracy"]) / row["n"]) ** 0.5),
                    f"{row['seconds']:.2f}",
                ]
                for row in each.to_dict("records")
            ]
            parts.append(table([kind, "steps", "accuracy", "seconds"], cells))
        parts.append(f"Reported, RoBERTa-base, whole train, best epoch: {REPORTED[str(name)]}.\n")
    return "\n".join(parts)
