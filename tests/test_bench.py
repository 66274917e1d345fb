"""The bench: cells share stages, rows replace their older selves, tables say what is missing."""

import pandas as pd
import pytest
from ruamel.yaml import YAML

from bench import run, tables
from bench.cell import STAGES, override, run_cell
from ltdi.errors import InputError


@pytest.fixture
def stages_run(monkeypatch):
    """Stages that write one file each and are recorded, in place of the real ones."""
    ran = []

    def stub(stage, output):
        def main(params_file, data):
            ran.append(stage)
            assert all((data / name).is_dir() for _, name, _ in list(STAGES.values())[: list(STAGES).index(stage)])
            (data / output).mkdir()
            (data / output / "params").write_text(params_file.read_text())

        return main

    for stage, (module, output, _) in STAGES.items():
        monkeypatch.setattr(module, "main", stub(stage, output))
    return ran


@pytest.fixture
def params():
    with open("params.yaml", encoding="utf-8") as file:
        return YAML(typ="safe").load(file)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"evaluate.landscape_points": 9}, ["evaluate"]),
        ({"method.name": "lvdi"}, ["meta_train", "generate_weights", "evaluate"]),
        ({"seed": 1}, ["prepare_tasks", "collect_trajectories", "meta_train", "generate_weights", "evaluate"]),
        ({"data.train_on_val": True}, list(STAGES)),
    ],
)
def test_cells_share_what_they_agree_in(stages_run, params, tmp_path, changes, expected):
    run_cell(params, tmp_path)
    assert stages_run == list(STAGES)
    stages_run.clear()
    data = run_cell(override(params, changes), tmp_path)
    assert stages_run == expected
    assert {path.name for path in data.iterdir()} == {output for _, output, _ in STAGES.values()}


def test_a_killed_cell_goes_on_where_it_was(stages_run, params, tmp_path, monkeypatch):
    module = STAGES["meta_train"][0]
    whole = module.main

    def killed(params_file, data):
        (data / "model").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "main", killed)
    with pytest.raises(KeyboardInterrupt):
        run_cell(params, tmp_path)
    monkeypatch.setattr(module, "main", whole)
    stages_run.clear()
    run_cell(params, tmp_path)
    assert stages_run == ["meta_train", "generate_weights", "evaluate"]


def test_an_override_of_an_unknown_key_is_named(params):
    with pytest.raises(InputError, match="diffusion.step = 3"):
        override(params, {"diffusion.step": 3})
    assert override(params, {"body.augment.max_shift": 0.5})["body"]["augment"]["max_shift"] == 0.5


def test_overriding_leaves_the_original_alone(params):
    before = params["body"]["augment"]["max_shift"]
    override(params, {"body.augment.max_shift": before + 0.1})
    assert params["body"]["augment"]["max_shift"] == before


def row(**changes) -> dict:
    values = {"setting": "omniglot-5w1s", "method": "ltdi", "variant": "ltdi", "train_classes": 800, "seed": 0, "tasks": 600, "accuracy": 0.99, "ci95": 0.001}
    return values | {"best_control": "prototype", "paired_diff": 0.002, "paired_ci95": 0.001, "ms_batch_1": 5.0, "seconds_meta_train": 60, "device": "cpu"} | changes


def test_a_row_replaces_its_older_self(tmp_path):
    file = tmp_path / "runs.csv"
    run._add(file, run.COLUMNS, [row(), row(seed=1)])
    run._add(file, run.COLUMNS, [row(accuracy=0.98)])
    table = pd.read_csv(file)
    assert list(table.columns) == run.COLUMNS
    assert table.accuracy.tolist() == [0.98, 0.99]


def test_tables_pool_seeds_and_say_what_is_missing():
    with open(tables.BENCH / "params.yaml", encoding="utf-8") as file:
        bench = YAML(typ="safe").load(file)
    runs = pd.DataFrame([row(accuracy=0.98, paired_diff=0.001), row(seed=1, accuracy=0.99, paired_diff=0.003), row(method="prototype", variant="control", accuracy=0.9)])
    bar = tables._bar(runs, bench)
    # the interval of a mean of two seeds, each ± 0.1: √(0.1² + 0.1²)/2
    assert "98.50 ± 0.07, sd 0.71 over 2 seeds" in bar and "+0.200 ± 0.071 (prototype)" in bar
    assert "missing" in bar and "97.12" in bar and "90.00 ± 0.10" in bar
    assert "| ltdi | ltdi | 98.50" in tables._ablation(runs, bench)


def test_every_variant_and_setting_is_made_of_known_keys(params):
    with open(tables.BENCH / "params.yaml", encoding="utf-8") as file:
        bench = YAML(typ="safe").load(file)
    for group in ("settings", "budgets", "variants"):
        for changes in bench[group].values():
            override(params, changes or {})
