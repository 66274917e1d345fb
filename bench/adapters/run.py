"""``python -m bench adapters``: adapters for data sets held out whole, beside what takes no step on them, LoRA from
scratch and what peft has (the paper's Table 5) -> adapters.tsv and adapters.md in bench/results or a folder of one's
own; of a GPU adapters_card.tsv and adapters_card.md.

What matters most is measured first, and every row is written as it comes: a run that is cut off keeps what it has.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import RESULTS
from bench.adapters import dylora
from bench.adapters.data import Held, clock, some_of_train
from bench.adapters.peft_baselines import RATES, scores_by_steps
from bench.adapters.without_steps import Row, probes, without_steps
from bench.harness import report, rows
from bench.harness.settings import ONE_SEED, conf, defaults, override
from bench.harness.stages import run_stages
from ltdi.datasets.text_files import read_text_set
from ltdi.inference.adapter_run import AdapterRun, shuffled
from ltdi.initialization.base import shared_draw
from ltdi.learners.fitting import adapt
from ltdi.methods.common.trained import SCALE_SHOTS
from ltdi.store import write_tsv
from ltdi.trajectories.storage import names
from ltdi.utils.console import say
from ltdi.utils.devices import device
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

SHARED = ("prepare_tasks", "collect_trajectories")
PARTS = ["none", "lora", "dylora", "peft"]
STEPS_FEW, LR = 50, 2e-3
TABLE = conf("adapters_table")


def main(
    root: Annotated[Path, typer.Option(help="GLUE's folder, or a zip of it.")],
    body: Annotated[str, typer.Option(help="A folder of transformers, or a name on the hub.")],
    seed: Annotated[list[int], typer.Option(help="Of the generator.")] = ONE_SEED,
    budget: Annotated[str, typer.Option(help="cpu, gpu or full, of bench/conf/adapters.yaml.")] = "cpu",
    method: Annotated[str, typer.Option(help="What generates.")] = "ltdi",
    part: Annotated[list[str], typer.Option(help="Of none (no step), lora, dylora, peft; all.")] = PARTS,
    out: Annotated[Path, typer.Option(help="The folder of the results.")] = RESULTS,
) -> None:
    if unknown := sorted(set(part) - set(PARTS)):
        raise InputError(f"--part {unknown[0]} is unknown; allowed: {', '.join(PARTS)}")
    if budget not in (budgets := conf("adapters")):
        raise InputError(f"--budget {budget} is unknown; allowed: {', '.join(budgets)}")
    hparams = budgets[budget]
    joint = override(defaults(), hparams["overrides"])["learner"]["joint"]
    about = {"method": method, "start_steps": joint["steps"], "start_inputs": joint["inputs"]}
    changes = {"texts.root": str(root), "texts.body": body, "method.name": method}

    def runs() -> Iterator[tuple[int, AdapterRun]]:
        for each in seed:
            params = override(defaults(), hparams["overrides"] | changes | {"seed": each})
            # the generators differ: their tasks and trajectories are the same
            yield each, AdapterRun(run_stages(params, seeds=dict.fromkeys(SHARED, 0)))

    for row in measure(runs(), root, hparams, part):
        keep(about | row, out)


def measure(
    runs: Iterable[tuple[int, AdapterRun]], root: Path, hparams: Row, parts: Sequence[str] = PARTS
) -> Iterator[Row]:
    """Rows with their seeds: of what takes no step, also on the data sets that ``hyperparameters`` are chosen on,
    where there are any; then of LoRA's steps, from what is generated and from scratch; then of the other baselines,
    which know no generator, once."""
    begun, steps, seen = clock(), hparams["lora_steps"], []
    sets: list[Held] = []
    chosen_on: list[Held] = []
    for seed, run in runs:
        scale = getattr(run.method, "update_scale", torch.zeros(0)).tolist()
        chosen = f"start {run.method.initialization.values()}, update scale {scale} at {SCALE_SHOTS} shots"
        say(f"seed {seed}: a generator after {clock() - begun:.0f} s; {chosen}")
        seen.append((seed, run))
        sets = sets or [Held.of(run, read_text_set(root, name), hparams) for name in TABLE["reported"]]
        if "none" not in parts:
            continue
        chosen_on = chosen_on or [Held.of(run, read_text_set(root, name), hparams) for name in hparams["chosen_on"]]
        baselines = [AdapterRun(run.data, method=each) for each in names(run.data)[1] if each in TABLE["no_step"]]
        for group in (sets, chosen_on):
            for held, other in zip(group, group[1:] + group[:1]):
                yield from _seeded(without_steps(run, baselines, held, other, seed), seed)
        say(f"seed {seed}: what takes no step after {clock() - begun:.0f} s")
    first, run = seen[0]
    for seed, each in seen if "lora" in parts else ():
        for held in sets:
            starts = {"then": each.generate(held.train, seed=seed)}
            own = each.method.initialization.centre(each.context(held.train, seed=seed))
            # as a baseline from its initialization, too, where this is another
            if seed == first and not torch.equal(starts["then"], start := each.counted(own, held.train)):
                starts["start_then"] = start
            for what, start in starts.items():
                yield from _seeded(_from(each, what, start, held, hparams, seed), seed)
            if seed == first:
                yield from _seeded(probes(each, held, seed), seed)
                yield from _seeded(_from(each, "lora", _scratch(each, seed), held, hparams, seed), seed)
        say(f"seed {seed}: LoRA's steps after {clock() - begun:.0f} s")
    if "dylora" in parts:
        of_qqp = _of_qqp(run, root, hparams, first)
        yield from _seeded((held.row("qqp", run.score(of_qqp, held.dev), 0.0) for held in sets), first)
        yield from _seeded((_of_dylora(run, held, hparams, steps[-1], first) for held in sets), first)
    for held in sets if "peft" in parts else ():
        yield from _seeded(_of_peft(run, held, hparams), first)
    say(f"all after {clock() - begun:.0f} s")


def _seeded(found: Iterable[Row], seed: int) -> Iterator[Row]:
    return (row | {"seed": seed} for row in found)


def _from(run: AdapterRun, what: str, start: Tensor, held: Held, hparams: Row, seed: int) -> Iterator[Row]:
    """LoRA's steps from ``start`` on train, scored after some of them, and on the support set; seconds are those of the
    steps up to there."""
    steps = hparams["lora_steps"]
    batches, started = shuffled(held.train, hparams["inputs_a_step"], generator(seed, "steps")), clock()
    path = adapt(run.learner.loss, start, batches, optimizer="adam", lr=LR, record=steps)
    seconds = clock() - started
    for j, n in enumerate(steps):
        yield held.row(what, run.score(path.weights[:, j], held.dev), seconds * n / steps[-1], n)
    few = run.context(held.train, seed=seed).examples
    assert few is not None
    started = clock()
    w = run.train(start, few, steps=STEPS_FEW, lr=LR, seed=seed)
    seconds = clock() - started
    yield held.row(f"{what}_few", run.score(w, held.dev), seconds, STEPS_FEW)


def _of_qqp(run: AdapterRun, root: Path, hparams: Row, seed: int) -> Tensor:
    of = read_text_set(root, "QQP", ["train"])
    qqp = run.read_texts(*some_of_train(of, hparams["train"]))
    how = {"steps": hparams["lora_steps"][-1], "inputs_a_step": hparams["inputs_a_step"]}
    return run.train(_scratch(run, seed), qqp, lr=LR, seed=seed, **how)


def _of_dylora(run: AdapterRun, held: Held, hparams: Row, steps: int, seed: int) -> Row:
    batches, started = shuffled(held.train, hparams["inputs_a_step"], generator(seed, "steps")), clock()
    ranks = generator(seed, "ranks")
    trained = dylora.train(run.learner, _scratch(run, seed), batches, steps=steps, lr=LR, stream=ranks)
    seconds = clock() - started
    return held.row("dylora", run.score(trained, held.dev), seconds, steps)


def _of_peft(run: AdapterRun, held: Held, hparams: Row) -> Iterator[Row]:
    """Full fine-tuning and the other adapters, at as many steps."""
    say(f"{held.name}, by peft")
    by_steps: Row = {"steps": hparams["lora_steps"], "length": run.length, "inputs_a_step": hparams["inputs_a_step"]}
    texts = (held.texts["train"], held.texts["dev"])
    for kind in RATES:
        for n, accuracy, seconds in scores_by_steps(kind, run.learner, *texts, **by_steps, seed=0, clock=clock):
            yield held.row(kind, accuracy, seconds, n)


def _scratch(run: AdapterRun, seed: int) -> Tensor:
    """LoRA's own initialization."""
    return shared_draw(run.learner, 2, seed)[None].to(run.device)


def keep(row: Row, out: Path = RESULTS) -> None:
    """Add a row to those that are there and write the table, so that a killed run's rows stay."""
    name = "adapters" if device().type == "cpu" else "adapters_card"
    table = pd.concat([rows.read(f"{name}.tsv", out), pd.DataFrame([row])], ignore_index=True)
    write_tsv(
        out / f"{name}.tsv", table.drop_duplicates([*TABLE["run"], "data_set", "what", "steps", "seed"], keep="last")
    )
    report.write(f"{name}.md", out)
