"""A killed stage goes on from what it had finished, and ends as if it had never been killed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from ltdi.store import read_table, read_tensors, write_table, write_tensors
from ltdi.trajectories.storage import SPLITS, load_trajectories

pytestmark = pytest.mark.slow


@pytest.fixture
def kill_when(repository):
    """Runs a stage as a command and kills it as soon as ``reached()``."""

    def run_and_kill(stage: str, params: Path, data: Path, reached) -> None:
        command = [sys.executable, "-m", f"pipeline.{stage}", "--params", str(params), "--data", str(data)]
        process = subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not reached():
                assert process.poll() is None, f"{stage} ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            process.kill()
        assert process.wait() < 0, f"{stage} ended before it could be killed"

    return run_and_kill


def finished_entries(store: Path) -> list[Path]:
    """The files of a cache that are whole: those that are being written have another name."""
    return list(store.glob("[!.]*.safetensors"))


def kind_of(file: Path) -> str:
    """What a file of a model's or a trajectories' folder holds."""
    return (
        {"methods": "method", "trajectories": "trajectories"}[file.parent.name]
        if file.stem != "initialization"
        else "initialization"
    )


def tensors_under(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(folder)}/{name}": value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in read_tensors(file, kind=kind_of(file))[0].items()
    }


def points(data: Path) -> dict[str, torch.Tensor]:
    recorded = {split: load_trajectories(data, split)[0] for split in SPLITS}
    return {split: each.points(torch.arange(len(each))) for split, each in recorded.items()}


# --- killed


def test_collecting_goes_on_after_a_kill(finished, write_params, run_stage, kill_when, tmp_path, monkeypatch):
    params = write_params(tmp_path / "many", {"trajectories.shard_size": 5, "trajectories.steps": 150})
    shutil.rmtree(finished.data / "trajectories")
    store = tmp_path / "store" / "trajectories"

    kill_when("collect_trajectories", params, finished.data, lambda: len(finished_entries(store)) >= 3)
    assert not (finished.data / "trajectories").exists()
    before = {file: file.stat().st_mtime_ns for file in finished_entries(store)}
    assert 3 <= len(before) < 22

    run_stage("collect_trajectories", params, finished.data)
    assert len(finished_entries(store)) == 22
    assert {file: file.stat().st_mtime_ns for file in before} == before

    straight = tmp_path / "straight"
    for folder in ("tasks",):
        shutil.copytree(finished.data / folder, straight / folder)
    monkeypatch.setenv("LTDI_STORE", str(tmp_path / "other store"))
    run_stage("collect_trajectories", params, straight)
    resumed = finished.data / "trajectories"
    assert_close(tensors_under(resumed), tensors_under(straight / "trajectories"), rtol=0, atol=0)
    pd.testing.assert_frame_equal(
        read_table(resumed / "index.parquet"), read_table(straight / "trajectories" / "index.parquet")
    )


def test_meta_training_goes_on_after_a_kill(
    finished, write_params, run_stage, kill_when, tmp_path, monkeypatch, capsys
):
    params = write_params(tmp_path / "long", {"meta.steps": 120, "meta.val_every": 10})
    shutil.rmtree(finished.data / "model")
    store = tmp_path / "store" / "checkpoints"

    kill_when("meta_train", params, finished.data, lambda: finished_entries(store))
    assert not (finished.data / "model").exists()

    run_stage("meta_train", write_params(tmp_path / "other", {"meta.inner_lr": 0.06}), finished.data)
    assert "going on" not in capsys.readouterr().out, "another training is none of its business"
    run_stage("meta_train", params, finished.data)
    assert "going on from step" in capsys.readouterr().out
    first = (finished.data / "model" / "metrics.json").read_bytes()
    run_stage("meta_train", params, finished.data)
    assert "going on from step 120 of 120" in capsys.readouterr().out, "a training that is done is found again"
    assert (finished.data / "model" / "metrics.json").read_bytes() == first, "the seconds that it took among it"

    straight = tmp_path / "straight"
    for folder in ("body", "tasks", "trajectories"):
        shutil.copytree(finished.data / folder, straight / folder)
    monkeypatch.setenv("LTDI_STORE", str(tmp_path / "other store"))
    run_stage("meta_train", params, straight)
    assert "going on" not in capsys.readouterr().out
    assert_close(tensors_under(finished.data / "model"), tensors_under(straight / "model"), rtol=0, atol=0)
    assert (finished.data / "model" / "curve.tsv").read_text() == (straight / "model" / "curve.tsv").read_text()


# --- shards


@pytest.mark.parametrize("initialization", ["fresh", "prototype"])
def test_shards_of_any_size_hold_the_same_trajectories(initialization, finished, write_params, run_stage, tmp_path):
    found = {}
    for size in (7, 500):
        params = write_params(
            tmp_path / str(size), {"trajectories.shard_size": size, "trajectories.initialization": initialization}
        )
        shutil.rmtree(finished.data / "trajectories")
        run_stage("collect_trajectories", params, finished.data)
        found[size] = points(finished.data)
    assert_close(found[7], found[500], rtol=0, atol=1e-6)


def test_shards_are_found_again_by_what_decides_them(finished, write_params, run_stage, tmp_path):
    store = tmp_path / "store" / "trajectories"

    def collect(changes: dict) -> set[Path]:
        run_stage(
            "collect_trajectories",
            write_params(tmp_path / "params", {"trajectories.shard_size": 10} | changes),
            finished.data,
        )
        return set(finished_entries(store))

    first = collect({})
    assert len(first) == 11
    assert collect({"trajectories.max_dropped": 0.5}) == first
    assert len(collect({"trajectories.lr": 0.02})) == 22
    assert len(collect({"seed": 1})) == 33


@pytest.mark.parametrize("where", ["data", "data and cache"])
def test_an_altered_shard_is_collected_again(where, finished, write_params, run_stage, tmp_path):
    params = write_params(tmp_path / "small", {"trajectories.shard_size": 10})
    shutil.rmtree(finished.data / "trajectories")
    run_stage("collect_trajectories", params, finished.data)
    shard = finished.data / "trajectories" / "meta_train-0002.safetensors"
    whole, good = shard.read_bytes(), points(finished.data)
    (cached,) = [file for file in finished_entries(tmp_path / "store" / "trajectories") if file.read_bytes() == whole]

    content = bytearray(whole)
    content[-1] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    if where == "data and cache":
        cached.write_bytes(content)
    run_stage("collect_trajectories", params, finished.data)

    assert_close(points(finished.data), good, rtol=0, atol=0)
    assert cached.read_bytes() != content


def test_shards_of_two_runs_that_were_exchanged_are_collected_again(finished, write_params, run_stage, tmp_path):
    store, made = tmp_path / "store" / "trajectories", {}
    for seed in (1, 2):
        before = set(finished_entries(store)) if store.is_dir() else set()
        params = write_params(
            tmp_path / str(seed), {"trajectories.initialization": "fresh", "trajectories.lr": 0.01 * seed}
        )
        shutil.rmtree(finished.data / "trajectories")
        run_stage("collect_trajectories", params, finished.data)
        made[seed] = params, points(finished.data), sorted(set(finished_entries(store)) - before)
    for a, b in zip(made[1][2], made[2][2], strict=True):
        a.rename(tmp_path / "a")
        b.rename(a)
        (tmp_path / "a").rename(b)
    for params, good, _ in made.values():
        run_stage("collect_trajectories", params, finished.data)
        assert_close(points(finished.data), good, rtol=0, atol=0)


# --- trajectories that hold no number


def test_a_trajectory_of_nan_is_dropped_and_counted(finished, mixed, run_stage, write_params, tmp_path, capsys):
    features = finished.data / "tasks" / "features.safetensors"
    tensors, values = read_tensors(features, kind="features")
    counts = tensors["meta_train/counts"]
    # NaN itself is refused when features are written; the squares of these overflow
    spoilt = torch.full_like(tensors["meta_train"][: counts[0]], 1e25)
    tensors["meta_train"] = torch.cat([tensors["meta_train"], spoilt])
    tensors["meta_train/counts"] = torch.cat([counts, counts[:1]])
    write_tensors(features, tensors, values, kind="features")
    table = read_table(finished.data / "tasks" / "tasks.parquet")
    table.at[17, "classes"] = [len(counts), *table.classes[17][1:]]
    write_table(finished.data / "tasks" / "tasks.parquet", table)

    run_stage("collect_trajectories", finished.params, finished.data)
    said = capsys.readouterr().out
    assert (
        "dropped: 1 of 110 trajectories hold NaN or infinity, the first is task 17 of meta_train in"
        " meta_train-0000.safetensors" in said
    )
    assert "59 trajectories" in said

    trajectories, kept = load_trajectories(finished.data, "meta_train")
    assert kept.tolist() == [j for j in range(60) if j != 17]
    assert trajectories.points(torch.arange(len(kept))).isfinite().all()

    # new tasks may be of the spoilt class
    run_stage("meta_train", write_params(tmp_path / "recorded", {"meta.new_tasks": 0}), finished.data)
    assert all(value.isfinite().all() for value in tensors_under(finished.data / "model").values())
