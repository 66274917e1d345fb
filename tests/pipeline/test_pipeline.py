"""The pipeline as its user runs it, by DVC: what runs when, and what metrics, experiments and plots show."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from project import Project
from ruamel.yaml import YAML

from bench.harness.stages import read_stages
from ltdi.store import read_json, read_table, read_tensors

pytestmark = pytest.mark.slow

pytest.importorskip("dvc")

STAGES = list(read_stages())
METRICS = "data/results/metrics.json"
LOSSES = "Meta-training loss, and validation loss by sub-chain"


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory, repository, write_params) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("dvc") / "project"
    project = Project.copy(repository, folder, without=("dvc.lock", "data/results/", "bench/", "tests/"))
    write_params(folder)
    project.commit("params")
    ran = project.repro()
    project.commit("results")
    return SimpleNamespace(folder=folder, ran=ran, store=folder.parent / "store")


@pytest.fixture
def project(finished_project, tmp_path) -> Project:
    """A project in which every stage has run, the test's own copy."""
    shutil.copytree(finished_project.folder, tmp_path / "project")
    return Project(tmp_path / "project")


def metrics_of(project: Project) -> dict:
    (metrics,) = json.loads(project.run("dvc", "metrics", "show", "--json"))[""]["data"].values()
    return metrics["data"]


def edit(project: Project, section: str, key: str, value: object) -> None:
    file = project.folder / "params.yaml"
    params = YAML().load(file)
    params[section][key] = value
    YAML().dump(params, file)


def plots(project: Project) -> tuple[str, str]:
    """The page of `dvc plots show`, and what DVC complained about."""
    ended = subprocess.run(
        ["dvc", "plots", "show", "--out", "plots"], cwd=project.folder, env=project.env, capture_output=True, text=True
    )
    return (project.folder / "plots" / "index.html").read_text(encoding="utf-8"), ended.stderr


def drawn(page: str, title: str) -> list[dict[str, str]]:
    """The rows of the plot with this title; of a plot that failed DVC leaves an empty place in the page."""
    specs = [json.loads(text) for text in re.findall(r"var spec = (\{.*\});", page)]
    (values,) = [
        spec["data"]["values"]
        for spec in specs
        if spec and isinstance(spec["title"], dict) and spec["title"]["text"] == title
    ]
    return values


def test_every_stage_runs_once(finished_project, project):
    assert finished_project.ran == STAGES
    assert project.repro() == []
    assert project.run("git", "status", "--porcelain") == "", "a run leaves nothing that git would pick up"


def test_only_the_stages_that_read_a_param_run(project):
    edit(project, "evaluate", "landscape_points", 9)
    assert project.repro() == ["evaluate"]


@pytest.mark.slow
def test_an_edit_makes_again_what_it_may_have_changed(finished_project, project, tmp_path):
    """Stages run by DVC's rule, of files; what they cache is made again by the rule of inputs and code."""
    store = shutil.copytree(finished_project.store, tmp_path / "store")

    def edited(file: str, old: str, new: str) -> tuple[list[str], Counter, set[str]]:
        """The stages that ran, how many files of each kind were made, and the outs whose content is another."""
        path, files, outs = project.folder / file, set(store.rglob("*.safetensors")), hashes(project)
        assert old in path.read_text(encoding="utf-8")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        ran = project.repro()
        made = Counter(made.parent.name for made in set(store.rglob("*.safetensors")) - files)
        return ran, made, {out for out, content in hashes(project).items() if content != outs[out]}

    timed = {"data/weights", METRICS}
    ran, made, changed = edited("pipeline/common/progress.py", "15.0", "16.0")
    assert ran == STAGES and not made and changed <= timed

    ran, made, changed = edited("ltdi/utils/metrics.py", "import math", "import math  # edited")
    assert ran == STAGES and made == {"trajectories": 3, "checkpoints": 1}
    assert changed <= timed | {"data/trajectories", "data/model"}

    # the checkpoint is the method's: the body's training does not embed
    ran, made, changed = edited("ltdi/bodies/embedding.py", "[part.cpu() for", "[part.cpu().square() for")
    assert ran == STAGES and made == {"features": 1, "trajectories": 3, "checkpoints": 1}
    assert {"data/tasks", "data/trajectories", "data/model", "data/weights", METRICS} <= changed


def hashes(project: Project) -> dict[str, str]:
    """Of every out, as DVC has locked it."""
    lock = YAML(typ="safe").load(project.folder / "dvc.lock")
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


def test_metrics(project):
    metrics = metrics_of(project)
    assert metrics["method"] == "ltdi" and metrics["scored_by"] == "accuracy"
    baselines = metrics["baselines"]
    assert {"prototype", "ridge", "head_sgd", "mean_head", "nearest_head"} <= set(baselines)
    for row in (metrics, *baselines.values()):
        assert 0 < row["score"] < 1
        assert 0 < row["ci95"] < 0.5
        assert row["weight_mse"] > 0
        assert row["ms_per_task"]["batch_64"] > 0
        assert row["ms_per_task"]["batch_1"] > 0
    assert baselines["prototype"]["score"] > baselines["mean_head"]["score"] + 0.1
    assert metrics["ceiling"]["score"] > metrics["score"]
    # DVC drops lists and nulls without a word: the seal, and nothing else
    assert metrics == read_json(project.folder / METRICS)


def test_an_experiment_with_another_method(project):
    before = metrics_of(project)
    ran = project.repro("exp", "run", "-S", "method.name=lvdi", "-S", "meta.outer_lr=1e-5")
    assert ran == ["meta_train", "generate_weights", "evaluate"]
    metrics = metrics_of(project)
    assert metrics["method"] == "lvdi"
    assert metrics["baselines"]["ridge"]["score"] == before["baselines"]["ridge"]["score"]

    revisions = json.loads(project.run("dvc", "exp", "show", "--json"))
    (experiment,) = [each for revision in revisions for each in revision["experiments"] or []]
    (data,) = [revision["data"] for revision in experiment["revs"]]
    params = data["params"]["params.yaml"]["data"]
    assert params["method"]["name"] == "lvdi" and params["meta"]["outer_lr"] == 1e-5
    assert data["metrics"][METRICS]["data"] == metrics

    rows = list(csv.DictReader(io.StringIO(project.run("dvc", "exp", "show", "--csv"))))
    scores = {row["method.name"]: float(row["score"]) for row in rows if row["Experiment"] or row["rev"] != "workspace"}
    assert scores == {"ltdi": before["score"], "lvdi": metrics["score"]}

    page, complaints = plots(project)
    assert not complaints
    assert drawn(page, LOSSES)


def test_plots(project):
    page, complaints = plots(project)
    assert not complaints
    counts = Counter(row["field"] for row in drawn(page, LOSSES) if row["dvc_inferred_y_value"])
    assert counts == {"loss": 8, "val_loss_w0": 2, "val_loss_w1": 2, "val_loss_w2": 2}
    assert len([row for row in drawn(page, "Score on meta-val tasks") if row["val_score"]]) == 2

    metrics = metrics_of(project)
    shown = {
        row["head"]: float(row["score"]) for row in drawn(page, "Score of the generated heads and of the baselines")
    }
    expected = {name: row["score"] for name, row in metrics["baselines"].items()} | {
        "ltdi": metrics["score"],
        "ceiling": metrics["ceiling"]["score"],
    }
    assert shown == pytest.approx(expected)

    (image,) = set(re.findall(r'<img[^>]*src="([^"]+)"', page))
    assert (project.folder / "plots" / image).read_bytes().startswith(b"\x89PNG")


def test_every_plot_is_shown_once(project):
    page, _ = plots(project)
    names = re.findall(r'id ?= ?"([^"]+)"', page)
    assert len(names) == 4, names


def test_the_papers_options_run_end_to_end(run_stage, write_params, tmp_path):
    options = {
        "tasks.views": 2,
        "trajectories.initialization": "fresh",
        "trajectories.fit_on": "support",
        "trajectories.augment": True,
        "trajectories.sam": 0.05,
        "diffusion.steps": 20,
        "diffusion.schedule": "linear",
        "diffusion.prediction": "epsilon",
        "diffusion.weighting": "theorem",
        "diffusion.on_policy": 0.0,
        "denoiser.name": "unet",
        "meta.inner_steps": 2,
        "meta.inner_optimizer": "adam",
        "meta.weight_loss": 1.0,
        "meta.query_loss": 0.0,
        "meta.new_tasks": 0,
    }
    params = write_params(tmp_path, options)
    for stage in STAGES:
        run_stage(stage, params, tmp_path / "data")
    metrics = json.loads((tmp_path / METRICS).read_text())
    assert 0 < metrics["score"] < 1
    assert math.isfinite(metrics["weight_mse"])


def test_turned_classes_where_meta_val_has_too_few(run_stage, write_params, finished, tmp_path):
    """9 meta-val classes make no task of 10 ways; their quarter turns are 36."""
    params = write_params(tmp_path / "wide", {"tasks.n_way": 10, "tasks.val_transforms": "rotations"})
    tasks = finished.data / "tasks"
    before = read_tensors(tasks / "features.safetensors", kind="features")[0]
    run_stage("prepare_tasks", params, finished.data)
    of_features = read_tensors(tasks / "features.safetensors", kind="features")[0]
    features, images = of_features["meta_val"], read_tensors(tasks / "images.safetensors", kind="images")[0]["meta_val"]
    table = read_table(tasks / "tasks.parquet")
    drawn = np.stack(table[table.split == "meta_val"].classes)
    assert drawn.shape == (20, 10) and drawn.max() >= 9
    counts, rows = of_features["meta_val/counts"], 9 * 20
    assert counts.tolist() == [20] * 36 and torch.equal(features[:rows], before["meta_val"])
    assert torch.equal(images[rows : 2 * rows], images[:rows].rot90(1, (-2, -1)))
