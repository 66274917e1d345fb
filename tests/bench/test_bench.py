"""The bench: cells share stages, and what is edited, or changed in the params, is measured again."""

import importlib
import shutil
import sys

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from bench import ROOT, __main__
from bench.harness import cells, stages
from bench.harness.cells import planned
from bench.harness.settings import bench_params, cell_params, changes_of, override
from bench.harness.stages import read_stages, run_stages
from ltdi.methods.registry import METHODS
from ltdi.store import read_json, read_table, write_json, write_table, write_tensors
from ltdi.utils.errors import InputError

STAGES = read_stages()


def module_of(stage: str):
    return importlib.import_module(STAGES[stage].command.split()[-1])


@pytest.fixture
def stages_run(monkeypatch):
    """Stages that write one file each and are recorded, in place of the real ones."""
    ran = []

    def stub(stage):
        def main(params_file, data):
            earlier = list(STAGES.values())[: list(STAGES).index(stage)]
            assert all((data / each.folder).is_dir() for each in earlier)
            ran.append(stage)
            (data / STAGES[stage].folder).mkdir()
            (data / STAGES[stage].folder / "params").write_text(params_file.read_text())

        return main

    for stage in STAGES:
        monkeypatch.setattr(module_of(stage), "main", stub(stage))
    return ran


@pytest.fixture
def bench():
    return bench_params()


@pytest.fixture
def params():
    with open("params.yaml", encoding="utf-8") as file:
        return YAML(typ="safe").load(file)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"evaluate.landscape_points": 9}, ["generate_weights", "evaluate"]),
        ({"method.name": "lvdi"}, ["meta_train", "generate_weights", "evaluate"]),
        ({"methods.reptile.inner_lr": 0.5}, []),
        ({"data.root": "elsewhere"}, []),
        ({"seed": 1}, ["prepare_tasks", "collect_trajectories", "meta_train", "generate_weights", "evaluate"]),
        ({"data.train_on_val": True}, list(STAGES)),
    ],
)
def test_cells_share_what_they_agree_in(stages_run, params, tmp_path, changes, expected):
    run_stages(params, tmp_path)
    assert stages_run == list(STAGES)
    stages_run.clear()
    data = run_stages(override(params, changes), tmp_path)
    assert stages_run == expected
    assert {path.name for path in data.iterdir()} == {stage.folder for stage in STAGES.values()}


def test_heads_are_deleted_once_they_are_scored(stages_run, params, tmp_path, monkeypatch):
    times = pd.DataFrame({"name": ["ltdi"], "batch": [1], "ms_generate": [2.0]})

    def generated(params_file, data):
        (data / "weights" / "ltdi").mkdir(parents=True)
        files = [data / "weights" / name for name in ("ltdi/000000.safetensors", "chain.safetensors")]
        for file in files:
            write_tensors(file, {"weights": torch.zeros(1)}, kind="weights")
        write_table(data / "weights" / "timing.parquet", times, made_from=files)

    monkeypatch.setattr(module_of("generate_weights"), "main", generated)
    data = run_stages(params, tmp_path)
    assert [file.name for file in (data / "weights").rglob("*") if file.is_file()] == ["timing.parquet"]
    assert read_table(data / "weights" / "timing.parquet").equals(times)
    stages_run.clear()
    assert run_stages(params, tmp_path) == data and not stages_run


def test_a_killed_cell_goes_on_where_it_was(stages_run, params, tmp_path, monkeypatch):
    module = module_of("meta_train")
    whole = module.main

    def killed(params_file, data):
        (data / "model").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "main", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stages(params, tmp_path)
    monkeypatch.setattr(module, "main", whole)
    stages_run.clear()
    run_stages(params, tmp_path)
    assert stages_run == ["meta_train", "generate_weights", "evaluate"]


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the code, to edit."""
    for name in ("ltdi", "pipeline", "bench"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("work", "results"))
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(cells, "BENCH", tmp_path / "bench")
    monkeypatch.setattr(cells, "OWN_CODE", tuple(tmp_path / file.relative_to(ROOT) for file in cells.OWN_CODE))
    stages.digest_of_code.cache_clear()
    yield tmp_path
    stages.digest_of_code.cache_clear()


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("ltdi/methods/generators/lvdi.py", {("meta_train", "lvdi"), ("generate_weights", "lvdi")}),
        ("ltdi/methods/baselines/ridge.py", {("meta_train", "baselines"), ("generate_weights", "baselines")}),
        ("ltdi/methods/registry.py", set()),
        ("ltdi/config.py", set()),
        ("pipeline/evaluate.py", {("evaluate", method) for method in ("lvdi", "ltdi", "baselines")}),
        (
            "ltdi/bodies/conv4.py",
            {(stage, method) for stage in STAGES for method in ("lvdi", "ltdi", "baselines")},
        ),
    ],
)
def test_edited_code_makes_its_stages_and_cells_new(code, bench, file, stale):
    methods = ("lvdi", "ltdi", "baselines")

    def keys() -> tuple[dict, dict]:
        stages.digest_of_code.cache_clear()
        params = {method: cell_params(bench, "glyphs-5w1s", method, bench["budgets"]["quick"]) for method in methods}
        of_stages = {(name, method): stage.code(params[method]) for name, stage in STAGES.items() for method in methods}
        return of_stages, {method: planned(bench, "glyphs-5w1s", method, "quick", code)["key"] for method in methods}

    before, cells_before = keys()
    with open(code / file, "a", encoding="utf-8") as edited:
        edited.write("# edited\n")
    after, cells_after = keys()
    assert {key for key in before if before[key] != after[key]} == stale
    assert {name for name in methods if cells_before[name] != cells_after[name]} == {name for _, name in stale}


def test_edited_code_of_the_runner_makes_every_cell_new(code, bench):
    before = planned(bench, "glyphs-5w1s", "ltdi", "quick", code)["key"]
    with open(code / "bench" / "harness" / "cells.py", "a", encoding="utf-8") as edited:
        edited.write("# edited\n")
    stages.digest_of_code.cache_clear()
    assert planned(bench, "glyphs-5w1s", "ltdi", "quick", code)["key"] != before


def test_a_cells_key_holds_neither_places_nor_what_other_cells_do(bench, tmp_path):
    def key(method, root=tmp_path):
        return planned(bench, "glyphs-5w1s", method, "quick", root)["key"]

    before, baselines = key("ltdi"), key("baselines")
    bench["methods"]["ocd"] = bench["budgets"]["quick"]["methods"]["ocd"] = {"meta.outer_lr": 0.5}
    bench["data"]["omniglot"]["body.lr"] = 0.5
    assert (key("ltdi", tmp_path / "elsewhere"), key("baselines")) == (before, baselines)
    bench["methods"]["ltdi"] = {"meta.outer_lr": 0.5}
    assert key("ltdi") != before and key("baselines") == baselines


def test_what_a_budget_leaves_out_is_reported(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "CELLS", tmp_path)
    cells.cell("glyphs-5w1s", "ltdi", "figures", tmp_path)
    found = read_json(tmp_path / "glyphs-5w1s" / "ltdi" / "cell.json", kind="cell")
    assert found == {"missing": "not in the budget figures; make bench BUDGET=cpu"}
    method = planned(bench, "omniglot-5w1s", "reptile", "quick", tmp_path)["missing"]
    assert method == "reptile is not in the budget quick; make bench BUDGET=cpu"
    assert "no images_background" in planned(bench, "omniglot-5w1s", "ltdi", "quick", tmp_path)["missing"]
    with pytest.raises(InputError, match="budget 'huge' is not in .*; allowed: quick, cpu, ablation, figures, full"):
        cells.cells("huge", tmp_path)


@pytest.fixture
def few_cells(monkeypatch, tmp_path):
    """Two settings, one of them without its data, and two methods; cells whose measuring is recorded."""
    bench, ran, broken = bench_params(), [], set()
    bench["settings"] = {name: bench["settings"][name] for name in ("glyphs-5w1s", "omniglot-5w1s")}
    bench["methods"] = {"ltdi": {}, "lvdi": {}}

    def measure(entry, folder):
        if folder.name in broken:
            raise ValueError("broken")
        ran.append(folder.name)
        write_json(folder / "cell.json", {"missing": "", "key": entry["key"]}, kind="cell")

    monkeypatch.setattr(cells, "CELLS", tmp_path / "cells")
    monkeypatch.setattr(cells, "bench_params", lambda: bench)
    monkeypatch.setattr(cells, "measure", measure)
    return bench, ran, broken, tmp_path


def test_only_cells_that_changed_are_measured_again(few_cells, capsys):
    bench, ran, _, root = few_cells
    cells.cells("quick", root)
    assert ran == ["baselines", "ltdi", "lvdi"]
    cells.cells("quick", root)
    assert len(ran) == 3
    bench["methods"]["lvdi"] = {"meta.outer_lr": 2e-3}
    cells.plan("quick", root)
    told = capsys.readouterr()
    assert "glyphs-5w1s lvdi: to be measured, budget quick, seeds 0" in told.out + told.err
    assert "glyphs-5w1s ltdi: measured" in told.out + told.err
    cells.cells("quick", root)
    assert ran[3:] == ["lvdi"]


def test_a_cell_that_fails_stops_no_other_and_is_measured_again(few_cells):
    _, ran, broken, root = few_cells
    broken.add("ltdi")
    with pytest.raises(InputError, match="1 cells failed, the first of them glyphs-5w1s ltdi: ValueError: broken"):
        cells.cells("quick", root)
    assert ran == ["baselines", "lvdi"]
    broken.clear()
    cells.cells("quick", root)
    assert ran == ["baselines", "lvdi", "ltdi"]


def test_an_override_of_an_unknown_key_is_named(params):
    with pytest.raises(InputError, match="diffusion.step = 3"):
        override(params, {"diffusion.step": 3})
    assert override(params, {"body.augment.max_shift": 0.5})["body"]["augment"]["max_shift"] == 0.5


def test_overriding_leaves_the_original_alone(params):
    before = params["body"]["augment"]["max_shift"]
    override(params, {"body.augment.max_shift": before + 0.1})
    assert params["body"]["augment"]["max_shift"] == before


def test_everything_in_the_params_is_made_of_known_keys(params, bench):
    for setting in bench["settings"]:
        for budget in bench["budgets"].values():
            override(params, changes_of(bench, setting, budget))
            for method in ("baselines", *bench["methods"]):
                cell_params(bench, setting, method, budget)
    for changes in (
        *bench["variants"].values(),
        *bench["bases"].values(),
        *bench["bodies"].values(),
        *(each for some in bench["search"].values() for each in some),
    ):
        override(params, changes)


def test_every_method_has_a_column_a_name_and_the_same_number_of_candidates(bench):
    # a baseline of the loss, in the ablation alone, and what is of names alone
    assert set(bench["methods"]) == set(METHODS) - {"naive_local", "icis", "reptile_names", "meta_baseline_names"}
    assert set(bench["methods"]) | set(bench["baselines"]) <= set(bench["names"])
    assert {len(bench["search"][method]) for method in bench["methods"]} == {3}


def test_an_unknown_command_shows_those_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "tabels"])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in __main__.COMMANDS)
