"""The tables of adapters: one set a run, and nothing said of what was not measured."""

import pandas as pd
import pytest
import torch

from bench.adapters import run
from bench.harness.report import render
from ltdi.utils.errors import InputError


def row(what, accuracy, steps=0, **changes):
    about = {"method": "ltdi", "layers": 6, "rank": 8, "start_steps": 60, "start_inputs": 32, "data_set": "QNLI"}
    about |= {"body": "b", "device": "D", "commit": "c", "train": 99, "n_shot": 8, "inputs_a_step": 16, "seed": 0}
    return about | {"what": what, "steps": steps, "accuracy": accuracy, "n": 400, "seconds": steps / 10} | changes


def line(text, label):
    (found,) = [each for each in text.splitlines() if each.startswith(f"| {label} |") and "±" in each]
    return [cell.strip() for cell in found.split("|")[1:-1]]


def test_loras_last_accuracy_is_reached_at_the_first_scored_step_that_has_it():
    rows = [row("lora", 0.5 + 0.1 * j, n) for j, n in enumerate((10, 20, 40))]
    rows += [row("then", accuracy, n) for accuracy, n in ((0.6, 10), (0.7, 20), (0.65, 40))]
    rows += [row("full", 0.6, 40)]
    text = render("adapters", rows=pd.DataFrame(rows))
    assert line(text, "ltdi, then LoRA's steps")[1:] == ["40", "65.00 ± 4.67", "70.00", "4", "20, 2"]
    assert line(text, "LoRA")[-1] == "40, 4"
    assert line(text, "full fine-tuning (peft's body)")[-1] == "not reached"
    assert "no step on the task" not in text and "steps on the few examples" not in text


def test_without_lora_nothing_is_said_of_its_accuracy():
    text = render("adapters", rows=pd.DataFrame([row("then", 0.9, 10), row("generated", 0.8)]))
    assert line(text, "ltdi, then LoRA's steps")[-1] == "" and "not reached" not in text


def test_runs_of_other_ranks_and_starts_stand_apart():
    rows = [row("generated", 0.8), row("generated", 0.6, seed=1), row("generated", 0.5, rank=4)]
    first, second = render("adapters", rows=pd.DataFrame(rows)).split("## LoRA of rank ")[1:]
    assert first.startswith("8 in 6 layers") and line(first, "**ltdi**")[2] == "70.00 ± 4.49 (60.00 to 80.00)"
    assert second.startswith("4 in 6 layers") and line(second, "**ltdi**")[2] == "50.00 ± 4.90"


@pytest.mark.parametrize("kind, name", [("cpu", "adapters"), ("cuda", "adapters_card")])
def test_a_row_replaces_its_like_and_no_row_of_another_run(kind, name, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "device", lambda: torch.device(kind))
    for each in (row("generated", 0.8), row("generated", 0.5, rank=4), row("generated", 0.7)):
        run.keep(each, tmp_path)
    assert pd.read_csv(tmp_path / f"{name}.tsv", sep="\t").accuracy.tolist() == [0.5, 0.7]
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.tsv", f"{name}.md"}


@pytest.mark.parametrize(
    "changes, said", [({"budget": "tiny"}, "--budget tiny .* cpu, gpu, full"), ({"part": ["x"]}, "--part x")]
)
def test_what_is_not_offered_is_one_line(changes, said, tmp_path):
    with pytest.raises(InputError, match=f"^{said}[^\n]*$"):
        run.main(tmp_path, "model", **changes)
