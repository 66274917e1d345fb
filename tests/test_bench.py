"""The bench: cells share stages, only what changed is measured again, tables say what is missing."""

import importlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from project import Project
from ruamel.yaml import YAML

from bench import ROOT, __main__, cell, cells, few_shot, picture, plan, report, rows, settings, stages
from bench.plan import what_runs
from bench.settings import bench_params, cell_params, changes_of, override
from bench.stages import read_stages, run_stages
from ltdi.errors import InputError
from ltdi.methods import METHODS
from ltdi.store import read_json, write_json, write_table

STAGES = read_stages()


def module_of(stage: str):
    return importlib.import_module(STAGES[stage].command.removeprefix("python -m "))


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
    def generated(params_file, data):
        (data / "weights" / "ltdi").mkdir(parents=True)
        for name in ("ltdi/000000.safetensors", "chain.safetensors", "timing.parquet"):
            (data / "weights" / name).touch()

    monkeypatch.setattr(module_of("generate_weights"), "main", generated)
    data = run_stages(params, tmp_path)
    assert [file.name for file in (data / "weights").rglob("*") if file.is_file()] == ["timing.parquet"]
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
    monkeypatch.setattr(plan, "BENCH", tmp_path / "bench")
    stages.name_of_code.cache_clear()
    yield tmp_path
    stages.name_of_code.cache_clear()


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("ltdi/methods/lvdi.py", {("meta_train", "lvdi"), ("generate_weights", "lvdi")}),
        ("ltdi/methods/ridge.py", {("meta_train", "controls"), ("generate_weights", "controls")}),
        ("ltdi/methods/__init__.py", set()),
        ("pipeline/knobs.py", set()),
        ("pipeline/evaluate.py", {("evaluate", method) for method in ("lvdi", "ltdi", "controls")}),
        (
            "ltdi/bodies/conv4.py",
            {(stage, method) for stage in list(STAGES)[:-1] for method in ("lvdi", "ltdi", "controls")},
        ),
    ],
)
def test_edited_code_makes_its_stages_and_cells_new(code, bench, file, stale):
    methods = ("lvdi", "ltdi", "controls")

    def names() -> tuple[dict, dict]:
        stages.name_of_code.cache_clear()
        budget = bench["budgets"]["quick"]
        params = {method: cell_params(bench, "glyphs-5w1s", method, budget) for method in methods}
        names = {(name, method): stage.code(params[method]) for name, stage in STAGES.items() for method in methods}
        return names, {method: what_runs(bench, "glyphs-5w1s", method, budget)["names"] for method in methods}

    before, cells_before = names()
    assert names() == (before, cells_before)
    with open(code / file, "a", encoding="utf-8") as edited:
        edited.write("# edited\n")
    after, cells_after = names()
    assert {key for key in before if before[key] != after[key]} == stale
    assert {method for method in cells_before if cells_before[method] != cells_after[method]} == {
        method for _, method in stale
    }


def test_edited_code_of_the_bench_makes_every_cell_new(code, bench):
    before = what_runs(bench, "glyphs-5w1s", "ltdi", bench["budgets"]["quick"])
    with open(code / "bench" / "machine.py", "a", encoding="utf-8") as edited:
        edited.write("# edited\n")
    stages.name_of_code.cache_clear()
    assert what_runs(bench, "glyphs-5w1s", "ltdi", bench["budgets"]["quick"])["names"] != before["names"]


@pytest.mark.parametrize("file", plan.OWN_CODE)
def test_the_code_of_a_cell_is_all_of_the_bench_that_it_imports(file, imports_of):
    known = {f"bench.{Path(name).stem}" for name in plan.OWN_CODE} | {"bench"}
    assert {name for name in imports_of(ROOT / "bench" / file) if name.split(".")[0] == "bench"} <= known


def test_an_override_of_an_unknown_key_is_named(params):
    with pytest.raises(InputError, match="diffusion.step = 3"):
        override(params, {"diffusion.step": 3})
    assert override(params, {"body.augment.max_shift": 0.5})["body"]["augment"]["max_shift"] == 0.5


def test_overriding_leaves_the_original_alone(params):
    before = params["body"]["augment"]["max_shift"]
    override(params, {"body.augment.max_shift": before + 0.1})
    assert params["body"]["augment"]["max_shift"] == before


def row(**changes) -> dict:
    values = {
        "setting": "omniglot-5w1s",
        "method": "ltdi",
        "variant": "ltdi",
        "train_classes": 800,
        "seed": 0,
        "tasks": 600,
        "accuracy": 0.99,
        "ci95": 0.001,
    }
    return (
        values
        | {
            "best_control": "prototype",
            "paired_diff": 0.002,
            "paired_ci95": 0.001,
            "ms_batch_1": 5.0,
            "seconds_meta_train": 60,
            "device": "cpu",
        }
        | changes
    )


def beside(**changes) -> pd.DataFrame:
    values = {
        "setting": "glyphs-5w1s",
        "method": "lvdi",
        "variant": "noise_lvdi",
        "train_classes": 300,
        "seed": 0,
        "beside": "ltdi",
    }
    return pd.DataFrame([values | {"paired_diff": -0.02, "paired_ci95": 0.001} | changes])


def test_variants_of_another_base_stand_beside_its_ltdi(bench):
    noise = {"setting": "glyphs-5w1s", "train_classes": 300}
    runs = pd.DataFrame([row(), row(**noise, variant="noise_ltdi"), row(**noise, method="lvdi", variant="noise_lvdi")])
    pairs = pd.concat([beside(), beside(seed=1, paired_diff=-0.04)])
    first, second = report.ablation(runs, pairs, bench, "").split("## From noise")
    assert "| omniglot-5w1s | 800 | ltdi |" in first and "glyphs" not in first
    (line,) = [line for line in second.splitlines() if "| lvdi | lvdi |" in line]
    assert "| -3.000 ± 0.071, sd 1.41 |" in line and "trajectories.start = shared" in second


def test_a_row_replaces_its_older_self(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    rows.add("runs.csv", [row(), row(seed=1)])
    rows.add("runs.csv", [row(accuracy=0.98)])
    table = pd.read_csv(tmp_path / "runs.csv")
    assert list(table.columns) == rows.TABLES["runs.csv"].split()
    for other in ("lvdi", "ltdi", "ltdi"):
        rows.add("beside.csv", [row(beside=other)])
    assert pd.read_csv(tmp_path / "beside.csv").beside.tolist() == ["ltdi", "lvdi"]
    assert table.accuracy.tolist() == [0.98, 0.99]


@pytest.fixture
def bench():
    return bench_params()


def test_tables_pool_seeds_and_say_what_is_missing(bench):
    runs = pd.DataFrame(
        [
            row(accuracy=0.98, paired_diff=0.001),
            row(seed=1, accuracy=0.99, paired_diff=0.003),
            row(method="prototype", variant="control", accuracy=0.9),
        ]
    )
    bar = report.omniglot(runs, bench)
    # the interval of a mean of two seeds, each ± 0.1: √(0.1² + 0.1²)/2
    assert "98.50 ± 0.07, sd 0.71 over 2 seeds" in bar and "+0.200 ± 0.071 (prototype)" in bar
    assert "missing" in bar and "97.12" in bar and "90.00 ± 0.10" in bar
    assert "| ltdi | ltdi | 98.50" in report.ablation(runs, beside(), bench, "")


def test_sharpness_is_told_beside_ltdis_heads():
    rows = [
        {
            "setting": "glyphs-5w1s",
            "variant": f"noise_{name}",
            "seed": seed,
            "tasks": 500,
            "lambda_max": value,
            "ci95": 0.02,
            "paired_diff": value - 0.5,
            "paired_ci95": 0.01,
        }
        for seed in (0, 1)
        for name, value in (("ltdi", 0.5), ("sam", 0.25))
    ]
    text = report.sharpness(pd.DataFrame(rows))
    assert "| noise_sam | 0.2500 ± 0.0141 | -0.2500 ± 0.0071 | 2 | 1000 |" in text
    assert "| noise_ltdi | 0.5000 ± 0.0141 |  | 2 | 1000 |" in text


def test_the_components_are_kept_where_their_cells_are_not(tmp_path, bench):
    assert report._components(tmp_path / "ablation.md") == ""
    (tmp_path / "ablation.md").write_text(report.ablation(pd.DataFrame([row()]), beside(), bench, "C1: as measured\n"))
    assert report._components(tmp_path / "ablation.md") == "C1: as measured\n"


def test_everything_in_the_params_is_made_of_known_keys(params, bench):
    for setting in bench["settings"]:
        for budget in bench["budgets"].values():
            override(params, changes_of(bench, setting, budget))
            for method in ("controls", *bench["methods"]):
                cell_params(bench, setting, method, budget)
    for changes in (
        *bench["variants"].values(),
        *bench["bases"].values(),
        *bench["bodies"].values(),
        *(each for some in bench["search"].values() for each in some),
    ):
        override(params, changes)


def test_the_papers_configuration_is_that_of_make_paper(bench, repository, capsys):
    assert "options=$$(python -m bench paper-params) && dvc exp run" in (repository / "Makefile").read_text()
    importlib.import_module(__main__.COMMANDS["paper-params"][0]).main()
    _, *options = f" {capsys.readouterr().out.strip()}".split(" -S ")
    given = dict(option.split("=") for option in options)
    assert {key: YAML(typ="safe").load(value) for key, value in given.items()} == bench["variants"]["paper"]


def test_every_method_has_a_column_a_name_and_the_same_number_of_candidates(bench):
    assert set(bench["methods"]) == set(METHODS) - {"naive_local"}  # a control of the loss, in the ablation alone
    assert set(bench["methods"]) | set(bench["controls"]) <= set(bench["names"])
    assert {len(bench["search"][method]) for method in bench["methods"]} == {3}


# --- what `make bench` writes


@pytest.fixture
def measured(tmp_path, monkeypatch, bench):
    """Two cells of one setting, another setting whose data are missing."""
    monkeypatch.setattr(cells, "CELLS", tmp_path)

    def write(method: str, scores: dict[str, list[list[float]]], ms: float) -> None:
        folder = tmp_path / "glyphs-5w1s" / method
        frames = [
            pd.DataFrame({"method": name, "task": range(len(values)), "score": values, "seed": seed})
            for name, seeds in scores.items()
            for seed, values in enumerate(seeds)
        ]
        write_table(folder / "per_task.parquet", pd.concat(frames))
        times = [
            {
                "name": name,
                "batch": n,
                "adapts": False,
                "ms_embed": 1.0,
                "ms_generate": ms / n,
                "ms_query": 2.0,
                "seed": 0,
            }
            for name in scores
            for n in (1, 64)
        ]
        write_table(folder / "timing.parquet", pd.DataFrame(times))
        facts = {
            "train_classes": 300,
            "ceiling": {"score": 0.99, "ci95": 0.0},
            "val_score": 0.9,
            "parameters": 5,
            "seconds": 7.0,
            "body": {},
        }
        write_json(
            folder / "cell.json",
            {"missing": "", "budget": "quick", "device": "cpu", "commit": "abc", "seeds": {"0": facts, "1": facts}},
        )

    controls = {name: [[0.80, 0.70, 0.60], [0.50, 0.60, 0.70]] for name in bench["controls"]}
    controls["ridge"] = [[0.81, 0.71, 0.61], [0.51, 0.61, 0.71]]
    write("controls", controls, 0.5)
    write("ltdi", {"ltdi": [[0.86, 0.76, 0.65], [0.56, 0.66, 0.76]]}, 4.0)
    write("ocd", {"ocd": [[0.80, 0.72, 0.61], [0.50, 0.62, 0.71]]}, 8.0)
    write("ghn3", {"ghn3": [[0.71, 0.61, 0.50], [0.41, 0.51, 0.61]]}, 8.0)
    write_json(tmp_path / "omniglot-5w1s" / "ltdi" / "cell.json", {"missing": "no Omniglot; get it"})
    return cells.load(bench)


def test_the_few_shot_table(measured, bench):
    text = few_shot.markdown(measured)
    table = text.partition("## What to use")[0]
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    # six tasks: deviation 0.1059, 1.96·0.1059/√6 = 0.0847; the seeds' means 0.7567 and 0.66 deviate by 0.0967/√2
    assert "**70.83** ± 8.47 sd 6.84 ▲" in lines["Lt-Di"]
    assert "▼" in lines["GHN3"] and "**" not in lines["GHN3"]
    assert "▲" not in lines["OCD"] and "▼" not in lines["OCD"]
    assert "97.12" in lines["Lt-Di"] and "missing" in lines["Lt-Di"] and "missing" in lines["REPTILE"]
    assert text.count("- missing: omniglot-5w1s: no Omniglot; get it") == 1
    assert "reduced budget" in text
    assert "above the best control (ridge), paired over tasks: Lt-Di (+4.83" in text


def test_the_times_table(measured, bench):
    times = few_shot._times(measured)
    (line,) = [line for line in times.splitlines() if line.startswith("| Lt-Di")]
    assert [part.strip() for part in line.split("|")[2:9]] == ["1.0", "4.00", "", "5.0", "1.06", "2.0", "7"]


def test_long_rows_have_a_row_a_seed(measured, bench):
    table = cells.long_rows(measured)
    (first, second) = [each for each in table if each["method"] == "ltdi"]
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["accuracy"] == pytest.approx(0.7567, abs=1e-4) and second["accuracy"] == pytest.approx(0.66)
    assert first["best_control"] == "ridge" and first["paired_diff"] == pytest.approx(0.14 / 3)
    assert set(first) <= set(rows.TABLES["runs.csv"].split()) and first["ms_batch_1"] == 5.0
    assert all("paired_diff" not in each for each in table if each["method"] in bench["controls"])


def test_the_components_and_the_picture(measured, bench, tmp_path):
    text = few_shot.components(measured)
    assert "| Lt-Di | C1 C2 C3 | 70.83 ± 8.47 (+4.83 ± " in text and "| LLO-VAE | C1 | missing |" in text
    picture.picture(measured, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_budget_leaves_out_is_said(monkeypatch, tmp_path, bench):
    monkeypatch.setattr(plan, "PLAN", tmp_path)
    monkeypatch.setattr(cell, "PLAN", tmp_path)
    monkeypatch.setattr(cell, "CELLS", tmp_path / "cells")
    bench["budgets"]["quick"]["leaves_out"] = ["glyphs-*/rept*", "omniglot-20w*"]
    monkeypatch.setattr(plan, "bench_params", lambda: bench)
    plan.main(root=tmp_path)
    cell.main("glyphs-5w1s", "reptile")
    assert read_json(tmp_path / "cells" / "glyphs-5w1s" / "reptile" / "cell.json") == {
        "missing": "reptile is not in the budget quick; make bench BUDGET=cpu"
    }
    why = {name: read_json(tmp_path / name / "ltdi.json")["missing"] for name in bench["settings"]}
    assert (
        why["glyphs-5w1s"] == ""
        and "not in the budget" in why["omniglot-20w1s"]
        and "no images_background" in why["omniglot-5w1s"]
    )


def test_what_a_cell_runs_says_neither_where_the_data_lie_nor_what_others_do(bench):
    def written(method: str) -> str:
        return json.dumps(what_runs(bench, "glyphs-5w1s", method, bench["budgets"]["quick"]))

    before, controls = written("ltdi"), written("controls")
    bench["methods"]["ocd"] = bench["budgets"]["quick"]["methods"]["ocd"] = {"meta.outer_lr": 0.5}
    bench["data"]["omniglot"]["body.lr"] = 0.5
    assert (written("ltdi"), written("controls")) == (before, controls) and "root" not in before
    bench["methods"]["ltdi"] = {"meta.outer_lr": 0.5}
    assert written("ltdi") != before and written("controls") == controls


def test_an_unknown_budget_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "PLAN", tmp_path)
    with pytest.raises(
        InputError, match="budget 'huge' is not in bench/params.yaml; allowed: quick, cpu, ablation, full"
    ):
        plan.main("huge")


# --- when DVC runs a cell


@pytest.fixture(scope="module")
def tiny_bench(tmp_path_factory, repository, write_params):
    """A bench of two settings, one of them without its data, and two methods, measured."""
    pytest.importorskip("dvc")
    folder = tmp_path_factory.mktemp("bench") / "project"
    project = Project.copy(
        repository, folder, without=("dvc.lock", "data/results/", "bench/results/", "bench/dvc.lock", "tests/")
    )
    write_params(folder)
    bench = settings.load_yaml(folder / "bench" / "params.yaml")
    bench |= {key: {} for key in ("bases", "variants", "search")}
    bench["settings"] = {name: bench["settings"][name] for name in ("glyphs-5w1s", "omniglot-5w1s")}
    bench["methods"] = {"ltdi": {}, "meta_hypernetwork": {}}
    bench["budgets"] = {"quick": {"label": "tiny", "seeds": [0], "leaves_out": [], "overrides": {}, "methods": {}}}
    bench["data"]["glyphs"] = {}
    save(project, bench)
    project.commit("tiny")
    ran = project.repro("repro", "bench/dvc.yaml")
    assert sorted(ran) == sorted(
        ["plan", "controls@glyphs-5w1s", "controls@omniglot-5w1s", *cells_of("ltdi"), *cells_of("meta_hypernetwork")]
    )
    return project, bench


def save(project: Project, bench: dict) -> None:
    with open(project.folder / "bench" / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(bench, file)


def cells_of(method: str) -> list[str]:
    return [f"cell@glyphs-5w1s-{method}", f"cell@omniglot-5w1s-{method}"]


def again(project: Project) -> list[str]:
    first, *others = project.repro("repro", "bench/dvc.yaml")
    assert first == "plan"
    return sorted(others)


@pytest.mark.slow
def test_only_what_changed_is_measured_again(tiny_bench):
    project, bench = tiny_bench
    assert again(project) == []
    made = read_json(project.folder / "bench" / "work" / "cells" / "glyphs-5w1s" / "ltdi" / "cell.json")
    assert list(made["seeds"]) == ["0"] and not made["missing"]
    assert (
        "no images_background" in read_json(project.folder / "bench/work/cells/omniglot-5w1s/ltdi/cell.json")["missing"]
    )

    # a cell without data has nothing to do again
    file = project.folder / "ltdi" / "methods" / "meta_hypernetwork.py"
    code = file.read_text()
    file.write_text(code + "# edited\n")
    assert again(project) == ["cell@glyphs-5w1s-meta_hypernetwork"]

    bench["methods"]["ltdi"] = {"meta.outer_lr": 2e-3}
    save(project, bench)
    assert again(project) == ["cell@glyphs-5w1s-ltdi"]

    # a method that is new comes with its line in METHODS and its knobs
    for known in ("ltdi/methods/__init__.py", "pipeline/knobs.py"):
        with open(project.folder / known, "a", encoding="utf-8") as edited:
            edited.write("# one more\n")
    bench["methods"]["llo_vae"] = {}
    save(project, bench)
    assert again(project) == cells_of("llo_vae")

    # killed on the way: the cell that did not end is measured, the others are not
    file.write_text(code + "raise KeyboardInterrupt\n")
    with pytest.raises(AssertionError, match="exited with 130"):
        again(project)
    file.write_text(code + "# whole again\n")
    assert again(project) == ["cell@glyphs-5w1s-meta_hypernetwork"]
