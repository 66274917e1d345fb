"""``ltdi classify --transductive``, and the bench's table of the transductive track."""

import pandas as pd
import pytest
import torch
from command import refused
from torch.testing import assert_close
from worlds import World

import ltdi
from bench.harness.report import render
from bench.harness.settings import conf, defaults, override
from bench.tables import transductive
from ltdi.methods.storage import write_method
from ltdi.methods.transductive.self_training import SelfTraining
from ltdi.tasks.transductive_tasks import knowing


def test_a_head_is_generated_from_what_it_is_asked_too(task, tmp_path):
    run = ltdi.load(task.data)
    files = sorted(task.query.rglob("*.png"))
    head = run.generate(task.support, unlabelled=files)
    by_class = {place.name: sorted(place.iterdir()) for place in sorted(task.support.iterdir())}
    rows = run.extractor(run.extractor.read(files))[None]
    again = SelfTraining(run.method)
    assert_close(head.w, again.generate(knowing(run.context(by_class), rows), generator=run.noise(0)))
    assert not torch.equal(head.w, run.generate(task.support).w)
    ended = task.call(task.support, task.query, "--transductive", "--csv", task.csv, "--head", tmp_path / "head")
    assert ended.exit_code == 0, ended.output
    kept = run.load_head(tmp_path / "head")
    assert_close(kept.w, head.w, rtol=1e-4, atol=1e-5)
    answers = pd.read_csv(task.csv)
    assert answers["class"].tolist() == kept.classify(task.query)["class"].tolist()


@pytest.mark.parametrize("mistake", [[], ["--add", "x=y"]], ids=str)
def test_where_nothing_is_asked_or_a_class_joins_it_is_refused(mistake, task):
    images = [task.query] if mistake else []
    refused(task.call(task.support, *images, "--transductive", *mistake), "--transductive")


def test_the_runs_of_the_table_are_the_photographs():
    params = override(defaults(), conf("photos"))
    assert set(transductive.BASELINES) < set(params["method"]["baselines"])


def test_a_column_a_method_and_the_trained_one_beside_it():
    common = {"setting": "a", "n_shot": 1, "tasks": 500, "device": "a machine", "commit": "c"}
    rows = []
    for present, seed, better in ((5, 0, 0.02), (5, 1, 0.04), (2, 0, -0.1)):
        cell = common | {"present": present, "seed": seed, "ahead_ci95": 0.003 + 0.001 * seed}
        rows += [
            cell | {"method": "ltdi", "accuracy": 0.6, "ahead": better},
            cell | {"method": "bd_cspn", "accuracy": 0.5, "ahead": better + 0.1},
            cell | {"method": "ltdi+", "accuracy": 0.6 + better, "ahead": 0.0},
        ]
    text = render("transductive", rows=pd.DataFrame(rows))
    there, absent = text.split("two of the five classes")
    assert "| Lt-Di, inductive | BD-CSPN | Lt-Di with them |" in there
    assert "| a | 1 | 2 | 60.00 (+3.00 ± 0.25) | 50.00 (+13.00 ± 0.25) | 63.00 |" in there
    assert "| a | 1 | 1 | 60.00 (-10.00 ± 0.30) | 50.00 (+0.00 ± 0.30) | 50.00 |" in absent


def test_the_methods_of_a_run_and_those_that_see_more(tmp_path, monkeypatch):
    monkeypatch.setenv("LTDI_DEVICE", "cpu")  # where the world is
    world = World("prototype")
    folder = tmp_path / "model" / "methods"
    for name in ("ltdi", "ridge"):
        method = world.prepared(name)
        write_method(folder, name, method, world.setup(), {})
    found = transductive.methods_of(tmp_path, "ltdi", ["ridge"])
    assert list(found) == ["ltdi", "ridge", "soft_k_means", "bd_cspn", "laplacian_shot", "ridge+", "ltdi+"]
    source = transductive.Transductive(world.val, 5)
    monkeypatch.setattr(transductive, "N_WAY", 3)
    scores = transductive.scored(found, source, 20, 2, 0)
    assert set(scores) == set(found) and {len(each) for each in scores.values()} == {20}
    assert scores["ltdi+"].mean() > 0.6
