"""What the cells of the few-shot table would run, and when DVC runs one."""

import json

import pytest
from project import Project
from ruamel.yaml import YAML

from bench import cell, plan
from bench.plan import what_runs
from bench.settings import bench_params, load_yaml
from ltdi.store import read_json
from ltdi.utils.errors import InputError


@pytest.fixture
def bench():
    return bench_params()


def test_what_a_budget_leaves_out_is_said(monkeypatch, tmp_path, bench):
    monkeypatch.setattr(plan, "PLAN", tmp_path)
    monkeypatch.setattr(cell, "PLAN", tmp_path)
    monkeypatch.setattr(cell, "CELLS", tmp_path / "cells")
    bench["budgets"]["quick"]["leaves_out"] = ["glyphs-*/rept*", "omniglot-20w*"]
    monkeypatch.setattr(plan, "bench_params", lambda: bench)
    plan.main(root=tmp_path)
    cell.main("glyphs-5w1s", "reptile")
    assert read_json(tmp_path / "cells" / "glyphs-5w1s" / "reptile" / "cell.json", kind="cell") == {
        "missing": "reptile is not in the budget quick; make bench BUDGET=cpu"
    }
    why = {name: read_json(tmp_path / name / "ltdi.json", kind="cell")["missing"] for name in bench["settings"]}
    assert (
        why["glyphs-5w1s"] == ""
        and "not in the budget" in why["omniglot-20w1s"]
        and "no images_background" in why["omniglot-5w1s"]
    )


def test_what_a_cell_runs_says_neither_where_the_data_lie_nor_what_others_do(bench):
    def written(method: str) -> str:
        return json.dumps(what_runs(bench, "glyphs-5w1s", method, bench["budgets"]["quick"]))

    before, baselines = written("ltdi"), written("baselines")
    bench["methods"]["ocd"] = bench["budgets"]["quick"]["methods"]["ocd"] = {"meta.outer_lr": 0.5}
    bench["data"]["omniglot"]["body.lr"] = 0.5
    assert (written("ltdi"), written("baselines")) == (before, baselines) and "root" not in before
    bench["methods"]["ltdi"] = {"meta.outer_lr": 0.5}
    assert written("ltdi") != before and written("baselines") == baselines


def test_an_unknown_budget_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "PLAN", tmp_path)
    with pytest.raises(
        InputError, match="budget 'huge' is not in bench/params.yaml; allowed: quick, cpu, ablation, figures, full"
    ):
        plan.main("huge")


@pytest.fixture(scope="module")
def tiny_bench(tmp_path_factory, repository, write_params):
    """A bench of two settings, one of them without its data, and two methods, measured."""
    pytest.importorskip("dvc")
    folder = tmp_path_factory.mktemp("bench") / "project"
    project = Project.copy(
        repository, folder, without=("dvc.lock", "data/results/", "bench/results/", "bench/dvc.lock", "tests/")
    )
    write_params(folder)
    bench = load_yaml(folder / "bench" / "params.yaml")
    bench |= {key: {} for key in ("bases", "variants", "search")}
    bench["settings"] = {name: bench["settings"][name] for name in ("glyphs-5w1s", "omniglot-5w1s")}
    bench["methods"] = {"ltdi": {}, "meta_hypernetwork": {}}
    bench["budgets"] = {"quick": {"label": "tiny", "seeds": [0], "leaves_out": [], "overrides": {}, "methods": {}}}
    bench["data"]["glyphs"] = {}
    save(project, bench)
    project.commit("tiny")
    ran = project.repro("repro", "bench/dvc.yaml")
    assert sorted(ran) == sorted(
        ["plan", "baselines@glyphs-5w1s", "baselines@omniglot-5w1s", *cells_of("ltdi"), *cells_of("meta_hypernetwork")]
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
    file = project.folder / "ltdi" / "methods" / "generators" / "meta_hypernetwork.py"
    code = file.read_text()
    file.write_text(code + "# edited\n")
    assert again(project) == ["cell@glyphs-5w1s-meta_hypernetwork"]

    bench["methods"]["ltdi"] = {"meta.outer_lr": 2e-3}
    save(project, bench)
    assert again(project) == ["cell@glyphs-5w1s-ltdi"]

    # a method that is new comes with its line in METHODS and its hyperparameters
    for known in ("ltdi/methods/registry.py", "ltdi/config.py"):
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
