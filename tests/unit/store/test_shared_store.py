"""A store that machines share on S3, against a server of the test's own: one machine pulls what another has run."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import Project

pytest.importorskip("dvc_s3", reason="pip install 'ltdi[s3]' 'moto[server]'")
pytest.importorskip("moto.server", reason="pip install 'ltdi[s3]' 'moto[server]'")
pytestmark = pytest.mark.slow

STAGES = """stages:
  collect:
    cmd: echo ran >> ran && cp source collected
    deps: [source]
    outs: [collected]
  train:
    cmd: echo ran >> ran && cat collected collected > trained
    deps: [collected]
    outs: [trained]
"""


@pytest.fixture
def s3():
    """The address of a server that keeps everything in memory, with a bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.1)
        import boto3

        known = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **known).create_bucket(Bucket="shared")
        yield address
    finally:
        server.terminate()
        server.wait()


def machine(folder: Path) -> Project:
    project = Project(folder)
    project.env |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return project


def test_one_machine_collects_and_another_trains(tmp_path, s3):
    first = machine(tmp_path / "one" / "project")
    first.folder.mkdir(parents=True)
    (first.folder / "dvc.yaml").write_text(STAGES)
    (first.folder / "source").write_text("numbers\n")
    (first.folder / ".gitignore").write_text("ran\ncollected\ntrained\n")
    first.commit("stages")
    first.run("dvc", "init", "-q")
    first.run("dvc", "remote", "add", "-q", "-d", "shared", "s3://shared/ltdi")
    first.run("dvc", "remote", "modify", "-q", "shared", "endpointurl", s3)
    first.run("dvc", "repro", "collect")
    first.run("dvc", "push", "-q", "--run-cache")
    first.commit("collected")

    second = machine(tmp_path / "two" / "project")
    second.folder.parent.mkdir()
    subprocess.run(["git", "clone", "-q", str(first.folder), str(second.folder)], check=True)
    assert not (second.folder / "collected").exists()
    second.run("dvc", "repro", "--pull")
    assert (second.folder / "ran").read_text() == "ran\n"  # of training alone
    assert (second.folder / "trained").read_text() == "numbers\nnumbers\n"
