"""Every mistake of the user: one line that names it, exit code 2, nothing written."""

import importlib
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ltdi.store import read_table, read_tensors, write_table, write_tensors
from ltdi.trajectories.storage import write_weights
from pipeline import summary
from pipeline.common import stage as stages

pytestmark = pytest.mark.slow

OUTPUT = {
    "pretrain_body": "body",
    "prepare_tasks": "tasks",
    "collect_trajectories": "trajectories",
    "meta_train": "model",
    "generate_weights": "weights",
    "evaluate": "results",
}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def assert_one_line(output: str, stage: str, parts: tuple) -> None:
    assert output.startswith(f"pipeline.{stage}: ") and output.endswith("\n")
    assert output.count("\n") == 1, output
    for part in parts:
        assert str(part) in output


@pytest.fixture
def refused(few_glyphs, monkeypatch, capfd) -> Callable[..., None]:
    """``refused(stage, params, data, *parts)``: the stage ends as bad input ends, and its line holds the parts."""

    def check(stage: str, params: Path, data: Path, *parts: object) -> None:
        if stage in OUTPUT:
            shutil.rmtree(data / OUTPUT[stage], ignore_errors=True)  # as DVC does before it runs a stage
        before = snapshot(data)
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [stage, "--params", str(params), "--data", str(data)])
        with pytest.raises(SystemExit) as ended:
            stages.run(importlib.import_module(f"pipeline.{stage}").main)
        out, err = capfd.readouterr()
        assert ended.value.code == 2
        assert_one_line(out + err, stage, parts)
        assert snapshot(data) == before

    return check


# --- params.yaml


def case(stage: str, changes: dict, *parts: object):
    return pytest.param(
        stage, changes, parts, id=f"{stage}-{'-'.join(f'{key}={value}' for key, value in changes.items())}"
    )


@pytest.mark.parametrize(
    "stage, changes, parts",
    [
        # keys and sections
        case("pretrain_body", {"body.setps": 9}, "body.setps", 9, "steps"),
        case("pretrain_body", {"body.augment.max_twist": 3}, "body.augment.max_twist", 3),
        case("evaluate", {"trajectoires": {"lr": 1}}, "trajectoires", "trajectories"),
        case("prepare_tasks", {"tasks": 5}, "tasks = 5"),
        case("evaluate", {"evaluate": None}, "evaluate = None"),
        # types
        case("pretrain_body", {"body.lr": "fast"}, "body.lr", "'fast'", "number"),
        case("pretrain_body", {"seed": "one"}, "seed", "'one'", "integer"),
        case("pretrain_body", {"data.download": "maybe"}, "data.download", "'maybe'"),
        case("prepare_tasks", {"tasks.n_way": 2.5}, "tasks.n_way", 2.5),
        case("meta_train", {"meta.inner_lr": [1, 2]}, "meta.inner_lr", [1, 2]),
        # ranges
        case("pretrain_body", {"seed": -1}, "seed = -1", 0),
        case("pretrain_body", {"body.ema": 1.0}, "body.ema = 1.0", "less than 1"),
        case("pretrain_body", {"body.augment.max_shift": 1.5}, "body.augment.max_shift = 1.5", "1"),
        case("prepare_tasks", {"tasks.n_way": 1}, "tasks.n_way = 1", 2),
        case("prepare_tasks", {"tasks.meta_val": 0}, "tasks.meta_val = 0", 1),
        case("collect_trajectories", {"trajectories.length": 1}, "trajectories.length = 1", 2),
        case("collect_trajectories", {"trajectories.max_dropped": 1.5}, "trajectories.max_dropped = 1.5", 1),
        case("meta_train", {"diffusion.max_beta": 1.0}, "diffusion.max_beta = 1.0", 1),
        case("meta_train", {"denoiser.depth": 0}, "denoiser.depth = 0", 1),
        case("meta_train", {"denoiser.dropout": 1.0}, "denoiser.dropout = 1.0", 1),
        case("meta_train", {"meta.n_way": 1}, "meta.n_way = 1", 2),
        case("meta_train", {"meta.min_shot": 0}, "meta.min_shot = 0", 1),
        case("meta_train", {"meta.inner_lr": 0.0}, "meta.inner_lr = 0.0", 0),
        case("meta_train", {"meta.outer_lr": float("inf")}, "meta.outer_lr = inf", "finite"),
        case("meta_train", {"diffusion.chain_noise": float("nan")}, "diffusion.chain_noise = nan"),
        case("generate_weights", {"generate.timing_repeats": 0}, "generate.timing_repeats = 0", 1),
        case("generate_weights", {"generate.heads": 0}, "generate.heads = 0", 1),
        case("generate_weights", {"generate.chains": 0}, "generate.chains = 0", 1),
        case("evaluate", {"evaluate.landscape_points": 4}, "evaluate.landscape_points = 4", 5),
        # names
        case("pretrain_body", {"data.name": "cifar"}, "data.name", "'cifar'", "glyphs"),
        case("pretrain_body", {"body.name": "resnet13"}, "body.name", "'resnet13'", "conv4"),
        case("prepare_tasks", {"tasks.transforms": "all"}, "tasks.transforms", "'all'", "mirrored"),
        case("prepare_tasks", {"scenario.name": "zero"}, "scenario.name", "'zero'", "few_shot"),
        case("collect_trajectories", {"learner.name": "mlp"}, "learner.name", "'mlp'", "two_layer_head"),
        case(
            "collect_trajectories",
            {"trajectories.initialization": "zero"},
            "trajectories.initialization",
            "'zero'",
            "closed_form",
        ),
        case("meta_train", {"method.name": "maml"}, "method.name", "'maml'", "ltdi"),
        case("meta_train", {"denoiser.name": "mlp"}, "denoiser.name", "'mlp'", "unet"),
        # values that do not fit the data or each other
        case("prepare_tasks", {"tasks.n_way": 10}, "tasks.n_way", 10, "9 classes"),
        case("prepare_tasks", {"tasks.train_n_way": 4}, "tasks.train_n_way = 4", "tasks.n_way = 5", "null"),
        case("prepare_tasks", {"tasks.train_n_way": 37}, 37, "36 classes of meta_train"),
        case("prepare_tasks", {"tasks.n_shot": 16}, "tasks.n_shot + tasks.n_query", "16 + 5", "20 images"),
        case("collect_trajectories", {"trajectories.augment": True}, "trajectories.augment", "tasks.views"),
        case("collect_trajectories", {"learner.hidden": 15}, "learner.hidden = 15", "16 features"),
        case(
            "collect_trajectories",
            {"learner.hidden": 15, "trajectories.initialization": "ridge"},
            "learner.hidden = 15",
            "16 features",
        ),
        case("collect_trajectories", {"trajectories.steps": 2}, "trajectories.steps = 2", "trajectories.length = 4"),
        case(
            "collect_trajectories",
            {"trajectories.optimizer": "sgd", "trajectories.lr": 1e30},
            "110 of 110",
            "meta_train-0000.safetensors",
            "trajectories.max_dropped = 0.01",
            "trajectories.lr",
        ),
        case("pretrain_body", {"body.lr": 1e30}, "loss is nan", "step 2", "body.lr = 1e+30"),
        case("pretrain_body", {"body.weight_decay": 1e30}, "loss is nan", "lower body.lr = 0.002"),
        case("pretrain_body", {"body.images_a_class": 10**6}, "GB of memory", "lower body.images_a_class"),
        case("pretrain_body", {"body.filters": True}, "body.filters = True", "a number is wanted"),
        case("collect_trajectories", {"trajectories.sam": 1e30}, "110 of 110", "lower trajectories.lr = 0.01"),
        case("collect_trajectories", {"trajectories.lr": 1e300}, "trajectories.lr = 1e+300 is not allowed"),
        case("meta_train", {"meta.weight_loss": 1e30, "meta.inner_lr": 1e29}, "loss is", "lower meta.outer_lr = 0.003"),
        case("meta_train", {"diffusion.start_noise": 1e30}, "loss is nan", "lower meta.outer_lr = 0.003"),
        case("meta_train", {"meta.outer_lr": 1e30}, "loss is nan", "step 2", "meta.outer_lr = 1e+30"),
        case("meta_train", {"diffusion.steps": 2}, "diffusion.steps = 2", "3 segments", "trajectories.length"),
        case("meta_train", {"denoiser.width": 30}, "denoiser.width = 30", "denoiser.heads = 4"),
        case("meta_train", {"meta.weight_loss": 0.0, "meta.query_loss": 0.0}, "meta.weight_loss", "meta.query_loss"),
        case("meta_train", {"meta.new_tasks": 0, "meta.recorded_tasks": 0}, "meta.recorded_tasks", "meta.new_tasks"),
        case("meta_train", {"meta.weight_loss": 0.0, "meta.new_tasks": 0}, "meta.weight_loss", "meta.new_tasks"),
        case("meta_train", {"meta.min_shot": 3}, "meta.min_shot = 3", "meta.max_shot = 2"),
        case(
            "meta_train",
            {"denoiser.name": "unet"},
            "denoiser.name = unet",
            "meta.n_way = 8",
            "tasks.n_way = 5",
            "meta.new_tasks = 0",
        ),
        case("meta_train", {"meta.max_shot": 16}, "meta.max_shot + meta.query_images = 16 + 5", "20 images"),
        case("meta_train", {"meta.query_images": 19}, "meta.max_shot + meta.query_images = 2 + 19", "20 images"),
        case("evaluate", {"evaluate.task": 30}, "evaluate.task = 30", "30 meta-test tasks"),
    ],
)
def test_bad_params(stage, changes, parts, finished, write_params, tmp_path, refused):
    refused(stage, write_params(tmp_path / "bad", changes), finished.data, *parts)


@pytest.mark.parametrize(
    "name, parts",
    [("omniglot", ("images_background", "brendenlake")), ("mini_imagenet", ("images.zip", "image-net.org"))],
)
@pytest.mark.parametrize("stage", ["pretrain_body", "prepare_tasks"])
def test_data_that_are_not_there(stage, name, parts, finished, write_params, tmp_path, refused):
    root = tmp_path / "nowhere"
    params = write_params(tmp_path / "bad", {"data.name": name, "data.root": str(root)})
    refused(stage, params, finished.data, root, *parts)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("seed: [1, 2", ("not a YAML file",)),
        ("seed: 0\nseed: 1\n", ("not a YAML file", "duplicate")),
        ("just words", ("str", "mapping")),
        ("", ("mapping",)),
        ("seed: 0\n", ("'evaluate'", "missing")),
        ("seed: 0\nevaluate: { task: 0 }\n", ("evaluate.landscape_points", "missing")),
        (b"\xff\xfe\x00", ("not a YAML file",)),
    ],
    ids=["broken", "key-twice", "no-mapping", "empty", "no-section", "no-key", "binary"],
)
def test_bad_params_file(text, parts, finished, refused):
    Path(finished.params).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("evaluate", finished.params, finished.data, finished.params, *parts)


LATE = [
    ("tasks.n_way", "five", "tasks.n_way = 'five' is not allowed"),
    ("evaluate.landscape_points", 3, "evaluate.landscape_points = 3 is not allowed"),
    ("methods.metadiff.classifier", "none", "methods.metadiff.classifier = 'none' is not allowed"),
    ("method.name", "maml", "method.name = 'maml' is unknown; allowed: ltdi,"),
    ("method.baselines", ["ridge", "rigde"], "method.baselines = 'rigde' is unknown; allowed: ltdi,"),
]


@pytest.mark.parametrize("key, value, expected", LATE, ids=[key for key, *_ in LATE])
@pytest.mark.parametrize("stage", ["pretrain_body", "evaluate", "check"])
def test_params_of_later_stages_end_the_first(stage, key, value, expected, finished, write_params, refused, tmp_path):
    params = write_params(tmp_path / "bad", {key: value})
    refused(stage, params, finished.data, expected)


def test_a_run_asks_for_the_params_before_dvc_does(repository):
    lines = (repository / "Makefile").read_text(encoding="utf-8").splitlines()
    first = lines.index(next(line for line in lines if line.startswith("repro:"))) + 1
    assert [line.strip("\t@") for line in lines[first : first + 2]] == ["python -m pipeline.check", "dvc repro"]


def test_no_params_file(finished, refused, tmp_path):
    refused("evaluate", tmp_path / "other.yaml", finished.data, tmp_path / "other.yaml", "no such file", "--params")


def test_short_numbers_are_numbers(write_params, tmp_path):
    """`dvc exp run -S meta.outer_lr=1e-5` writes 1e-05, which other YAML readers take for a string."""
    from pipeline.common.params import load

    file = write_params(tmp_path)
    file.write_text(re.sub(r"outer_lr: \S+", "outer_lr: 1e-05", file.read_text()))
    assert load(file, "meta").meta.outer_lr == 1e-5


# --- files of earlier stages


@pytest.mark.parametrize(
    "stage, file",
    [
        ("prepare_tasks", "body/body.safetensors"),
        ("collect_trajectories", "tasks/features.safetensors"),
        ("collect_trajectories", "tasks/tasks.parquet"),
        ("meta_train", "trajectories/initialization.safetensors"),
        ("meta_train", "trajectories/index.parquet"),
        ("meta_train", "trajectories/meta_val-0000.safetensors"),
        ("generate_weights", "model/methods/ltdi.safetensors"),
        ("generate_weights", "model/methods/ridge.safetensors"),
        ("evaluate", "trajectories/meta_test-0000.safetensors"),
        ("evaluate", "weights/timing.parquet"),
        ("evaluate", "weights/ltdi/000000.safetensors"),
        ("evaluate", "weights/chain.safetensors"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "pickle"])
def test_damaged_files(stage, file, damage, finished, refused):
    path = finished.data / file
    if damage == "missing" and path.name == "chain.safetensors":
        pytest.skip("methods without a chain write none")
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.touch()
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"w": [1.0, 2.0]}))
    # of weights there may be several files: it is the folder that holds none
    refused(stage, finished.params, finished.data, path.parent if path.parent.name == "ltdi" else path)


READ = {
    "prepare_tasks": ["body/body.safetensors"],
    "collect_trajectories": ["tasks/features.safetensors", "tasks/tasks.parquet"],
    "meta_train": [
        "body/body.safetensors",
        "tasks/features.safetensors",
        "tasks/tasks.parquet",
        "trajectories/initialization.safetensors",
        "trajectories/index.parquet",
        "trajectories/meta_train-0000.safetensors",
        "trajectories/meta_val-0000.safetensors",
    ],
    "generate_weights": [
        "body/body.safetensors",
        "tasks/features.safetensors",
        "tasks/images.safetensors",
        "tasks/tasks.parquet",
        "trajectories/initialization.safetensors",
        "model/methods/names.json",
        "model/methods/ltdi.safetensors",
        "model/methods/ridge.safetensors",
    ],
    "evaluate": [
        "tasks/features.safetensors",
        "tasks/tasks.parquet",
        "trajectories/initialization.safetensors",
        "trajectories/index.parquet",
        "trajectories/meta_test-0000.safetensors",
        "weights/ltdi/000000.safetensors",
        "weights/ridge/000000.safetensors",
        "weights/chain.safetensors",
        "weights/timing.parquet",
    ],
}


@pytest.mark.parametrize("stage, file", [(stage, file) for stage, files in READ.items() for file in files])
def test_a_flipped_bit_in_any_file_that_a_stage_reads(stage, file, finished, refused):
    path = finished.data / file
    content = path.read_bytes()
    for place in (3, 12, len(content) // 2, len(content) - 7, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 2
        path.write_bytes(flipped)
        refused(stage, finished.params, finished.data, path, "dvc repro")


def test_weights_of_which_a_file_is_missing(finished, refused):
    folder, timing = finished.data / "weights" / "ltdi", finished.data / "weights" / "timing.parquet"
    w = read_tensors(folder / "000000.safetensors", kind="weights")[0]["w"]
    times = read_table(timing)
    write_weights(folder, 0, {"w": w[:20]})
    write_table(timing, times)
    refused("evaluate", finished.params, finished.data, folder, "task 20", "dvc repro")


def test_a_shard_of_another_run(finished, write_params, run_stage, tmp_path, refused):
    shard = finished.data / "trajectories" / "meta_test-0000.safetensors"
    before = shard.read_bytes()
    run_stage("collect_trajectories", write_params(tmp_path / "other", {"trajectories.lr": 0.02}), finished.data)
    shard.unlink()
    shard.write_bytes(before)
    index = finished.data / "trajectories" / "index.parquet"
    refused("evaluate", finished.params, finished.data, index, "was made from another", shard, "dvc repro")


@pytest.mark.parametrize(
    "again, changes, stage, file, other",
    [
        ("pretrain_body", {"seed": 1}, "collect_trajectories", "tasks/features.safetensors", "body/body.safetensors"),
        ("prepare_tasks", {"seed": 1}, "meta_train", "trajectories/initialization.safetensors", "tasks/tasks.parquet"),
        ("prepare_tasks", {"seed": 1}, "evaluate", "trajectories/initialization.safetensors", "tasks/tasks.parquet"),
        (
            "collect_trajectories",
            {"trajectories.lr": 0.02},
            "generate_weights",
            "model/methods/ltdi.safetensors",
            "trajectories/index.parquet",
        ),
        (
            "collect_trajectories",
            {"trajectories.lr": 0.02},
            "evaluate",
            "weights/timing.parquet",
            "trajectories/index.parquet",
        ),
        ("meta_train", {"seed": 1}, "evaluate", "weights/timing.parquet", "model/methods/names.json"),
    ],
)
def test_files_of_two_runs_in_one_folder(
    again, changes, stage, file, other, finished, write_params, run_stage, tmp_path, refused
):
    run_stage(again, write_params(tmp_path / "other", changes), finished.data)
    data = finished.data
    refused(stage, finished.params, data, data / file, "was made from another", data / other, "dvc repro")


# --- what is not finite


def test_adapted_weights_that_are_not_finite(finished, write_params, tmp_path, refused):
    params = write_params(tmp_path / "bad", {"generate.adapt_lr": 1e30, "generate.adapt_steps": 3})
    refused("generate_weights", params, finished.data, "ltdi for task 0", "not finite", "generate.adapt_lr = 1e+30")


@pytest.mark.parametrize(
    "factors, parts",
    [
        ({"blocks.2.1.weight": 1e38, "blocks.3.0.weight": 1e38}, ("features", "not finite")),
        ({"blocks.3.1.weight": 1e38}, ("features have size inf", "body.weights")),
        ({"blocks.3.1.weight": 0, "blocks.3.1.bias": 0}, ("features have size 0.0", "body.weights")),
    ],
    ids=["not finite", "too large to square", "zero"],
)
def test_features_that_tell_nothing(factors, parts, finished, refused):
    file = finished.data / "body" / "body.safetensors"
    weights, facts = read_tensors(file, kind="body")
    write_tensors(file, weights | {name: weights[name] * by for name, by in factors.items()}, facts, kind="body")
    refused("prepare_tasks", finished.params, finished.data, *parts)


def test_a_head_too_small_for_the_closed_form_baselines(finished, write_params, run_stage, tmp_path, refused):
    params = write_params(tmp_path / "bad", {"trajectories.initialization": "fresh", "learner.hidden": 15})
    run_stage("collect_trajectories", params, finished.data)
    refused("meta_train", params, finished.data, "learner.hidden = 15", "16 features")


def test_a_trained_body_that_is_not_there(finished, write_params, tmp_path, refused):
    file = tmp_path / "nowhere.safetensors"
    refused("pretrain_body", write_params(tmp_path / "bad", {"body.weights": str(file)}), finished.data, file)


def test_a_trained_body_of_another_size(finished, write_params, tmp_path, refused):
    file = shutil.copy(finished.data / "body" / "body.safetensors", tmp_path / "body.safetensors")
    params = write_params(tmp_path / "bad", {"body.weights": str(file), "body.filters": 8})
    refused("pretrain_body", params, finished.data, f"body.weights = {file}", 16, 8)


def test_new_tasks_of_other_sizes_than_a_shared_head(finished, write_params, run_stage, tmp_path, refused):
    params = write_params(tmp_path / "bad", {"trajectories.initialization": "shared"})
    run_stage("collect_trajectories", params, finished.data)
    refused(
        "meta_train",
        params,
        finished.data,
        "trajectories.initialization = shared",
        "meta.n_way = 8",
        "tasks.n_way = 5",
        "meta.new_tasks = 0",
    )


@pytest.mark.parametrize("changes", [{"meta.n_way": 5}, {"meta.new_tasks": 0}, {"meta.query_loss": 0.0}], ids=str)
def test_a_unet_of_one_size_is_trained_on_tasks_of_that_size(changes, finished, write_params, run_stage, tmp_path):
    run_stage(
        "meta_train",
        write_params(tmp_path / "unet", {"denoiser.name": "unet", "method.baselines": []} | changes),
        finished.data,
    )
    assert (finished.data / "model" / "methods" / "ltdi.safetensors").exists()


def test_no_trajectory_left(finished, write_params, run_stage, tmp_path, refused):
    changes = {"trajectories.optimizer": "sgd", "trajectories.lr": 1e30, "trajectories.max_dropped": 1.0}
    params = write_params(tmp_path / "bad", changes)
    run_stage("collect_trajectories", params, finished.data)
    refused("meta_train", params, finished.data, finished.data / "trajectories", "meta_train")


@pytest.mark.parametrize("text", [None, "{"], ids=["missing", "truncated"])
def test_summary_of_nothing(text, tmp_path, monkeypatch, capsys):
    file = tmp_path / "results" / "metrics.json"
    if text:
        file.parent.mkdir()
        file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["summary", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        stages.run(lambda params_file, data: summary.show(data))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert str(file) in said and said.count("\n") == 1


# --- the device


@pytest.mark.parametrize("device", ["gpu", "cuda:-5", "cuda:x", "", "meta"])
def test_no_such_device(device, finished, monkeypatch, refused):
    monkeypatch.setenv("LTDI_DEVICE", device)
    refused("collect_trajectories", finished.params, finished.data, "LTDI_DEVICE", repr(device), "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_cuda(finished, monkeypatch, refused):
    monkeypatch.setenv("LTDI_DEVICE", "cuda")
    refused("evaluate", finished.params, finished.data, "LTDI_DEVICE", "'cuda'", "cpu")


# --- as a command


def test_the_command_in_an_empty_folder(repository, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.evaluate"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert_one_line(ended.stdout + ended.stderr, "evaluate", ("params.yaml", "no such file"))
    assert not list(tmp_path.iterdir())
