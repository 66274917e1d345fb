"""Several processes of one stage, as torchrun starts them: what they make is what one makes; one that dies ends all."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ltdi.store import read_json, read_table, read_tensors
from ltdi.utils import distributed
from ltdi.utils.errors import InputError

pytestmark = pytest.mark.slow

SMALL = {
    "trajectories.shard_size": 15,
    "meta.steps": 4,
    "meta.val_every": 2,
    "denoiser.dropout": 0.0,
    "meta.refit": True,
}


def test_alone_it_does_nothing():
    value = torch.ones(2)
    distributed.add_up([value])
    assert list(distributed.mine(range(5))) == list(range(5)) and range(7)[distributed.share(7)] == range(7)
    assert distributed.leads() and value.equal(torch.ones(2))
    assert [part.item() for part in distributed.together([2.0, 3.0], torch.tensor)] == [2.0, 3.0]


@pytest.mark.parametrize(
    "told, name",
    [({"WORLD_SIZE": "x"}, "WORLD_SIZE"), ({"WORLD_SIZE": "0"}, "WORLD_SIZE"), ({"WORLD_SIZE": "2"}, "RANK")],
)
def test_what_torchrun_would_not_say_is_one_line(told, name, monkeypatch):
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match=f"{name} = .* is not what torchrun sets"), distributed.joined():
        pass


# the fixture's own few classes, in another process
CHILD = """
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from ltdi.utils import distributed
from ltdi.datasets import DATASETS, glyphs
DATASETS["glyphs"] = replace(DATASETS["glyphs"], load=partial(glyphs.load, n_classes=60))
params, data, *stages = sys.argv[1:]
with distributed.joined():
    for stage in stages:
        import_module("pipeline." + stage).main(Path(params), Path(data))
        distributed.wait()
"""


@pytest.fixture
def launch(repository, tmp_path):
    """Stages as two processes, whose store is of their own."""

    def launch(params: Path, data: Path, *stages: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = os.environ | shared | {"LTDI_STORE": str(tmp_path / "two")}
        command = [sys.executable, "-c", CHILD, str(params), str(data), *stages]
        return [subprocess.Popen(command, cwd=repository, env=own | {"RANK": str(rank)}) for rank in range(2)]

    return launch


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_two_make_is_what_one_makes(finished, write_params, run_stage, launch, tmp_path):
    params, stages = write_params(tmp_path, SMALL), ("prepare_tasks", "collect_trajectories", "meta_train")
    one, two = tmp_path / "one" / "data", tmp_path / "two" / "data"
    for folder in (one, two):
        shutil.copytree(finished.data / "body", folder / "body")
    processes = launch(params, two, *stages)
    for stage in stages:
        run_stage(stage, params, one)
    assert [process.wait(120) for process in processes] == [0, 0]
    for folder in ("tasks", "trajectories"):
        assert files_of(one / folder) == files_of(two / folder) and files_of(one / folder)
    file = "model/methods/ltdi.safetensors"
    (own, _), (other, _) = (read_tensors(data / file, kind="method") for data in (one, two))
    for name, value in own.items():
        assert_close(other[name], value, rtol=1e-3, atol=1e-4)
    assert read_json(two / "model" / "metrics.json")["parameters"]


def test_one_that_dies_ends_all_and_the_rest_goes_on(finished, write_params, launch, tmp_path):
    params = write_params(tmp_path, SMALL | {"trajectories.steps": 1500})
    data, store = finished.data, tmp_path / "two" / "trajectories"
    shutil.rmtree(data / "trajectories")
    processes = launch(params, data, "collect_trajectories")
    while not list(store.glob("[!.]*.safetensors")):
        assert [process.poll() for process in processes] == [None, None]
    processes[1].kill()
    assert processes[1].wait() < 0 and processes[0].wait(120) != 0
    assert not (data / "trajectories").exists()
    kept = {file: file.stat().st_mtime_ns for file in store.glob("[!.]*.safetensors")}

    assert [process.wait(120) for process in launch(params, data, "collect_trajectories")] == [0, 0]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(read_table(data / "trajectories" / "index.parquet")) == 110
