"""``python -m bench adapters``: adapters for data sets held out whole, beside what takes no step on them, LoRA from
scratch and what peft has (the paper's Table 5) -> adapters.tsv and adapters.md in bench/results or a folder of one's
own; of a GPU adapters_card.tsv and adapters_card.md.

What matters most is measured first, and every row is written as it comes: a run that is cut off keeps what it has.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import BENCH, RESULTS, dylora
from bench.adapter_baselines import RATES, scores_by_steps
from bench.adapter_data import Held, clock, held_out, some_of_train
from bench.adapter_gradient_free import probes, without_steps
from bench.adapter_table import NO_STEP, REPORTED, RUN, TABLES, markdown
from bench.options import ONE_SEED
from bench.settings import defaults, load_yaml, override
from bench.stages import run_stages
from ltdi.datasets.text_files import read_text_set
from ltdi.inference.adapter_run import AdapterRun, shuffled
from ltdi.initialization.base import shared_draw
from ltdi.learners.fitting import adapt
from ltdi.methods.common.trained import UPDATE_SCALE_SHOTS
from ltdi.store import write_text, write_tsv
from ltdi.trajectories.storage import names
from ltdi.utils.console import say
from ltdi.utils.devices import device
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

BUDGETS = BENCH / "adapters.yaml"
SHARED = ("prepare_tasks", "collect_trajectories")
PARTS = ["none", "lora", "dylora", "peft"]
STEPS_FEW, LR = 50, 2e-3

Runs = Iterable[tuple[int, AdapterRun]]
Row = dict[str, Any]


def main(
    root: Annotated[Path, typer.Option(help="GLUE's folder, or a zip of it.")],
    body: Annotated[str, typer.Option(help="A folder of transformers, or a name on the hub.")],
    seed: Annotated[list[int], typer.Option(help="Of the generator.")] = ONE_SEED,
    budget: Annotated[str, typer.Option(help="cpu, gpu or full, of bench/adapters.yaml.")] = "cpu",
    method: Annotated[str, typer.Option(help="What generates.")] = "ltdi",
    part: Annotated[list[str], typer.Option(help="Of none (no step), lora, dylora, peft; all.")] = PARTS,
    out: Annotated[Path, typer.Option(help="The folder of the results.")] = RESULTS,
) -> None:
    if unknown := sorted(set(part) - set(PARTS)):
        raise InputError(f"--part {unknown[0]} is unknown; allowed: {', '.join(PARTS)}")
    if budget not in (budgets := load_yaml(BUDGETS)):
        raise InputError(f"--budget {budget} is unknown; allowed: {', '.join(budgets)}")
    hparams = budgets[budget]
    joint = override(defaults(), hparams["overrides"])["learner"]["joint"]
    about = {"method": method, "start_steps": joint["steps"], "start_inputs": joint["inputs"]}
    changes = {"texts.root": str(root), "texts.body": body, "method.name": method}

    def runs() -> Iterator[tuple[int, AdapterRun]]:
        for each in seed:
            params = override(defaults(), hparams["overrides"] | changes | {"seed": each})
            # what differs is the generator: its tasks and trajectories are the same
            yield each, AdapterRun(run_stages(params, seeds=dict.fromkeys(SHARED, 0)))

    for row in measure(runs(), root, hparams, part):
        report(about | row, out)


def measure(runs: Runs, root: Path, hparams: Row, parts: Sequence[str] = PARTS) -> Iterator[Row]:
    """Rows with their seeds: of what takes no step, also on the data sets that ``hyperparameters`` are chosen on,
    where there are any; then of LoRA's steps, from what is generated and from scratch; then of the other baselines,
    which know no generator, once."""
    begun, steps, seen = clock(), hparams["lora_steps"], []
    sets: list[Held] = []
    chosen_on: list[Held] = []
    for seed, run in runs:
        say(f"seed {seed}: a generator after {clock() - begun:.0f} s; {_told(run)}")
        seen.append((seed, run))
        sets = sets or [held_out(run, read_text_set(root, name), hparams) for name in REPORTED]
        if "none" not in parts:
            continue
        chosen_on = chosen_on or [held_out(run, read_text_set(root, name), hparams) for name in hparams["chosen_on"]]
        baselines = _baselines(run)
        for group in (sets, chosen_on):
            for held, other in zip(group, group[1:] + group[:1]):
                yield from _seeded(without_steps(run, baselines, held, other, seed), seed)
        say(f"seed {seed}: what takes no step after {clock() - begun:.0f} s")
    first, run = seen[0]
    for seed, each in seen if "lora" in parts else ():
        for held in sets:
            yield from _seeded(_from_the_generated(each, held, hparams, seed, seed == first), seed)
            if seed == first:
                yield from _seeded(_of_no_generator(each, held, hparams, seed), seed)
        say(f"seed {seed}: LoRA's steps after {clock() - begun:.0f} s")
    if "dylora" in parts:
        of_qqp = _of_qqp(run, root, hparams, first)
        yield from _seeded((held.row("qqp", run.score(of_qqp, held.dev), 0.0) for held in sets), first)
        yield from _seeded((_of_dylora(run, held, hparams, steps[-1], first) for held in sets), first)
    for held in sets if "peft" in parts else ():
        yield from _seeded(_of_peft(run, held, hparams), first)
    say(f"all after {clock() - begun:.0f} s")


def _seeded(rows: Iterable[Row], seed: int) -> Iterator[Row]:
    return (row | {"seed": seed} for row in rows)


def _told(run: AdapterRun) -> str:
    """What meta-val chose of the start and of the generator."""
    update_scale = getattr(run.method, "update_scale", torch.zeros(0)).tolist()
    return f"start {run.method.initialization.values()}, update scale {update_scale} at {UPDATE_SCALE_SHOTS} shots"


def _baselines(run: AdapterRun) -> list[AdapterRun]:
    return [AdapterRun(run.data, method=each) for each in names(run.data)[1] if each in NO_STEP]


def _of_qqp(run: AdapterRun, root: Path, hparams: Row, seed: int) -> Tensor:
    of = read_text_set(root, "QQP", ["train"])
    qqp = run.read_texts(*some_of_train(of, hparams["train"]))
    how = {"steps": hparams["lora_steps"][-1], "inputs_a_step": hparams["inputs_a_step"]}
    return run.train(_scratch(run, seed), qqp, lr=LR, seed=seed, **how)


def _from_the_generated(run: AdapterRun, held: Held, hparams: Row, seed: int, baselines: bool) -> Iterator[Row]:
    """LoRA's steps from the generated adapter, on train and on the few examples; as a baseline from its start, too,
    where this is another."""
    starts = {"then": run.generate(held.train, seed=seed)}
    start = run.counted(run.method.initialization.centre(run.context(held.train, seed=seed)), held.train)
    if baselines and not torch.equal(starts["then"], start):
        starts["start_then"] = start
    for what, start in starts.items():
        yield from _along(run, what, start, held, hparams, seed)
        yield _on_the_few(run, f"{what}_few", start, held, seed)


def _of_no_generator(run: AdapterRun, held: Held, hparams: Row, seed: int) -> Iterator[Row]:
    """Probes, and LoRA from scratch."""
    yield from probes(run, held, seed)
    yield from _along(run, "lora", _scratch(run, seed), held, hparams, seed)
    yield _on_the_few(run, "lora_few", _scratch(run, seed), held, seed)


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


def _along(run: AdapterRun, what: str, start: Tensor, held: Held, hparams: Row, seed: int) -> Iterator[Row]:
    """LoRA's steps on train, scored after some of them; seconds are those of the steps up to there."""
    steps = hparams["lora_steps"]
    batches, started = shuffled(held.train, hparams["inputs_a_step"], generator(seed, "steps")), clock()
    path = adapt(run.learner.loss, start, batches, optimizer="adam", lr=LR, record=steps)
    seconds = clock() - started
    for j, n in enumerate(steps):
        yield held.row(what, run.score(path.weights[:, j], held.dev), seconds * n / steps[-1], n)


def _on_the_few(run: AdapterRun, what: str, start: Tensor, held: Held, seed: int) -> Row:
    few = run.context(held.train, seed=seed).examples
    assert few is not None
    started = clock()
    w = run.train(start, few, steps=STEPS_FEW, lr=LR, seed=seed)
    seconds = clock() - started
    return held.row(what, run.score(w, held.dev), seconds, STEPS_FEW)


def _scratch(run: AdapterRun, seed: int) -> Tensor:
    """As LoRA begins."""
    return shared_draw(run.learner, 2, seed)[None].to(run.device)


def report(row: Row, out: Path = RESULTS) -> None:
    """Written with the rows that are there, so that what a killed run has found stays."""
    of_processor, of_card = TABLES
    rows, file = pd.DataFrame([row]), out / f"{of_processor if device().type == 'cpu' else of_card}.tsv"
    if file.is_file():
        rows = pd.concat([pd.read_csv(file, sep="\t"), rows], ignore_index=True)
        rows = rows.drop_duplicates([*RUN, "data_set", "what", "steps", "seed"], keep="last")
    write_tsv(file, rows)
    write_text(file.with_suffix(".md"), markdown(rows))
