"""``python -m bench adapters``: adapters for data sets held out whole, beside what takes no step on them, LoRA from
scratch and what peft has (the paper's Table 5) -> bench/results/adapters.tsv and adapters.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import BENCH, dylora
from bench.adapter_baselines import RATES, scores_by_steps
from bench.adapter_data import Held, clock, held_out, some_of_train
from bench.adapter_likeness import of_likeness
from bench.adapter_table import NO_STEP, REPORTED, markdown
from bench.settings import defaults, load_yaml, override
from bench.stages import run_stages
from ltdi.adaptation import adapt
from ltdi.adapter import AdapterRun, shuffled
from ltdi.artefacts import names
from ltdi.console import say
from ltdi.datasets.texts import read_text_set
from ltdi.learner import Batch
from ltdi.learners import LinearHead
from ltdi.seeding import generator
from ltdi.starts.base import shared_draw
from ltdi.starts.closed_form import ridge_weights
from ltdi.store import write_text, write_tsv
from ltdi.tasks import Context

BUDGETS = BENCH / "adapters.yaml"
RESULTS = BENCH / "results"
SHARED = ("prepare_tasks", "collect_trajectories")
STEPS_FEW, STEPS_PROBE, LR, LR_PROBE, INPUTS_A_STEP = 50, 300, 2e-3, 1e-2, 32


def main(
    root: Annotated[Path, typer.Option(help="GLUE's folder, or a zip of it.")],
    body: Annotated[str, typer.Option(help="A folder of transformers, or a name on the hub.")],
    seed: Annotated[list[int], typer.Option(help="Of the generator.")] = [0],  # noqa: B006
    budget: Annotated[str, typer.Option(help="cpu or full, of bench/adapters.yaml.")] = "cpu",
    method: Annotated[str, typer.Option(help="What generates.")] = "ltdi",
    peft: Annotated[bool, typer.Option(help="The baselines of peft too, with seed 0.")] = True,
) -> None:
    knobs = load_yaml(BUDGETS)[budget]
    changes = {"texts.root": str(root), "texts.body": body, "method.name": method}
    sets: list[Held] = []
    for each in seed:
        params = override(defaults(), knobs["overrides"] | changes | {"seed": each})
        # what differs is the generator: its tasks and trajectories are the same
        run = AdapterRun(run_stages(params, seeds=dict.fromkeys(SHARED, 0)))
        sets = sets or [held_out(run, read_text_set(root, name), knobs) for name in REPORTED]
        for row in measure(run, sets, root, seed=each, knobs=knobs, baselines=each == 0, peft=peft and each == 0):
            report(row | {"seed": each}, method)


def measure(
    run: AdapterRun, sets: list[Held], root: Path, *, seed: int, knobs: dict[str, Any], baselines: bool, peft: bool
) -> Iterator[dict[str, Any]]:
    """Rows of what is generated for the data sets held out and of its controls; with ``baselines`` of what knows no
    generator, with ``peft`` of what this has."""
    controls = [AdapterRun(run.data, method=each) for each in names(run.data)[1] if each in NO_STEP]
    steps = knobs["lora_steps"]
    for held, other in zip(sets, sets[1:] + sets[:1]):
        say(f"{held.name}, seed {seed}")
        yield from _without_steps(run, controls, held, other, seed)
    for held in sets:
        yield from _from_the_generated(run, held, steps, seed, baselines)
        if baselines:
            yield from _of_no_generator(run, held, steps, seed)
    if baselines:
        of_qqp = _of_qqp(run, root, knobs, seed)
        yield from (held.row("qqp", run.score(of_qqp, held.dev), 0.0) for held in sets)
        yield from (_of_dylora(run, held, steps[-1], seed) for held in sets)
    if peft:
        for held in sets:
            yield from _of_peft(run, held, steps)


def _of_qqp(run: AdapterRun, root: Path, knobs: dict[str, Any], seed: int) -> Tensor:
    of = read_text_set(root, "QQP", ["train"])
    qqp = run.read_texts(*some_of_train(of, knobs["train"]))
    return run.train(_scratch(run, seed), qqp, steps=knobs["lora_steps"][-1], lr=LR, seed=seed)


def _without_steps(
    run: AdapterRun, controls: list[AdapterRun], held: Held, other: Held, seed: int
) -> Iterator[dict[str, Any]]:
    right = run.context(held.train, seed=seed)
    stream = generator(seed, "random condition")

    def generated(of: AdapterRun, what: str, context: Context) -> dict[str, Any]:
        started = clock()
        w = of.method.generate(context, generator=generator(seed, "noise"))
        seconds = clock() - started
        return held.row(what, of.score(of.counted(w, held.train), held.dev), seconds)

    yield generated(run, "generated", right)
    yield generated(run, "shuffled", run.context(other.train, seed=seed))
    yield generated(run, "random", _noise_like(right, stream))
    for each in controls:
        yield generated(each, each.name, right)
    start, centre = run.method.start.shared[None], run.method.start.centre(right)
    for what, w in {"start": start, "centre": centre}.items():
        yield held.row(what, run.score(run.counted(w, held.train), held.dev), 0.0)
    even = run.method.generate(right, generator=generator(seed, "noise"))
    for what, w in {"generated_even": even, "start_even": start}.items():
        yield held.row(what, run.score(w, held.dev), 0.0)
    yield held.row("ridge", _ridge(right, held.dev), 0.0)
    for what, accuracy in of_likeness(run, held, seed).items():
        yield held.row(what, accuracy, 0.0)
    labels = held.dev["labels"][0].float()
    yield held.row("majority", max(labels.mean().item(), 1 - labels.mean().item()), 0.0)


def _noise_like(context: Context, stream: torch.Generator) -> Context:
    """Noise with the mean and the deviation of all numbers of the rows, and of what the model reads; labels stay."""

    def noise(of: Tensor) -> Tensor:
        return of.mean() + of.std() * torch.randn(of.shape, generator=stream).to(of)

    examples = context.examples
    assert examples is not None
    return replace(context, rows=noise(context.rows), examples={**examples, "hidden": noise(examples["hidden"])})


def _ridge(context: Context, dev: Batch) -> float:
    """Of ridge regression on the embeddings of the few examples, at unit length, its penalty 1: no step is taken."""
    few = replace(context, rows=torch.nn.functional.normalize(context.rows, dim=-1))
    learner = LinearHead(context.rows.shape[-1])
    w = ridge_weights(learner, few, 1.0, 1.0)
    asked = {"inputs": torch.nn.functional.normalize(dev["embedding"], dim=-1), "labels": dev["labels"]}
    return learner.score(w, asked).item()


def _from_the_generated(
    run: AdapterRun, held: Held, steps: list[int], seed: int, baselines: bool
) -> Iterator[dict[str, Any]]:
    """LoRA's steps from the generated adapter, on train and on the few examples; as a baseline from its start, too,
    where this is another."""
    starts = {"then": run.generate(held.train, seed=seed)}
    start = run.counted(run.method.start.centre(run.context(held.train, seed=seed)), held.train)
    if baselines and not torch.equal(starts["then"], start):
        starts["start_then"] = start
    for what, start in starts.items():
        yield from _along(run, what, start, held, steps, seed)
        yield _on_the_few(run, f"{what}_few", start, held, seed)


def _of_no_generator(run: AdapterRun, held: Held, steps: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """Probes, and LoRA from scratch."""
    yield from _probes(run, held, seed)
    yield from _along(run, "lora", _scratch(run, seed), held, steps, seed)
    yield _on_the_few(run, "lora_few", _scratch(run, seed), held, seed)


def _of_dylora(run: AdapterRun, held: Held, steps: int, seed: int) -> dict[str, Any]:
    batches, started = shuffled(held.train, INPUTS_A_STEP, generator(seed, "steps")), clock()
    ranks = generator(seed, "ranks")
    trained = dylora.train(run.learner, _scratch(run, seed), batches, steps=steps, lr=LR, stream=ranks)
    seconds = clock() - started
    return held.row("dylora", run.score(trained, held.dev), seconds, steps)


def _of_peft(run: AdapterRun, held: Held, steps: list[int]) -> Iterator[dict[str, Any]]:
    """Full fine-tuning and the other adapters, at as many steps."""
    say(f"{held.name}, by peft")
    by_steps: dict[str, Any] = {"steps": steps, "length": run.length, "inputs_a_step": INPUTS_A_STEP}
    texts = (held.texts["train"], held.texts["dev"])
    for kind in RATES:
        for n, accuracy, seconds in scores_by_steps(kind, run.learner, *texts, **by_steps, seed=0, clock=clock):
            yield held.row(kind, accuracy, seconds, n)


def _along(
    run: AdapterRun, what: str, start: Tensor, held: Held, steps: list[int], seed: int
) -> Iterator[dict[str, Any]]:
    """LoRA's steps on train, scored after some of them; seconds are those of the steps up to there."""
    batches, started = shuffled(held.train, INPUTS_A_STEP, generator(seed, "steps")), clock()
    path = adapt(run.learner.loss, start, batches, optimizer="adam", lr=LR, record=steps)
    seconds = clock() - started
    for j, n in enumerate(steps):
        yield held.row(what, run.score(path.weights[:, j], held.dev), seconds * n / steps[-1], n)


def _on_the_few(run: AdapterRun, what: str, start: Tensor, held: Held, seed: int) -> dict[str, Any]:
    few = run.context(held.train, seed=seed).examples
    assert few is not None
    started = clock()
    w = run.train(start, few, steps=STEPS_FEW, lr=LR, seed=seed)
    seconds = clock() - started
    return held.row(what, run.score(w, held.dev), seconds, STEPS_FEW)


def _probes(run: AdapterRun, held: Held, seed: int) -> Iterator[dict[str, Any]]:
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
    probe = torch.nn.Linear(rows.shape[1], 2)
    torch.nn.init.zeros_(probe.weight)
    optimizer = torch.optim.Adam(probe.parameters(), lr=LR_PROBE, weight_decay=1e-3)
    for _ in range(STEPS_PROBE):
        torch.nn.functional.cross_entropy(probe(rows), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe


def _scratch(run: AdapterRun, seed: int) -> Tensor:
    """As LoRA begins."""
    return shared_draw(run.learner, 2, seed)[None].to(run.device)


def report(row: dict[str, Any], method: str) -> None:
    """Written with the rows that are there, so that what a killed run has found stays."""
    rows, file = pd.DataFrame([row]), RESULTS / "adapters.tsv"
    if file.is_file():
        rows = pd.concat([pd.read_csv(file, sep="\t"), rows], ignore_index=True)
        rows = rows.drop_duplicates(["data_set", "what", "steps", "seed"], keep="last")
    write_tsv(file, rows)
    write_text(RESULTS / "adapters.md", markdown(rows, method))
