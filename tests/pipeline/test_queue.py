"""Experiments of a queue: workers of a machine take them, and each has the result of its own params."""

import json
import time
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.slow

STAGE = """stages:
  square:
    cmd: python -c "import json; n = ${n}; json.dump({'square':n * n}, open('metrics.json', 'w'))"
    params: [n]
    metrics: [{metrics.json: {cache: false}}]
"""
SECONDS = 240
"""That a worker may take on a machine that does other things too."""


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path / "project")
    made.folder.mkdir()
    (made.folder / "dvc.yaml").write_text(STAGE)
    (made.folder / "params.yaml").write_text("n: 1\n")
    (made.folder / ".gitignore").write_text("/ignored\n")
    made.commit("a stage")
    made.run("dvc", "init", "-q")
    made.commit("DVC")
    yield made
    made.run("dvc", "queue", "stop", "--kill")


def test_queued_experiments_are_run_by_workers(project: Project):
    for n in (2, 3):
        project.run("dvc", "exp", "run", "--queue", "--name", f"of-{n}", "-S", f"n={n}")
    project.run("dvc", "queue", "start", "--jobs", "2")
    deadline = time.monotonic() + SECONDS
    while (said := project.run("dvc", "queue", "status")).count("Success") < 2:
        assert "Failed" not in said and time.monotonic() < deadline, said
        time.sleep(1)
    kept = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    for n in (2, 3):
        (own,) = (ref for ref in kept if ref.endswith(f"/of-{n}"))
        assert json.loads(project.run("git", "show", f"{own}:metrics.json")) == {"square": n * n}
    # the workspace is as it was
    assert Path(project.folder, "params.yaml").read_text() == "n: 1\n"
    assert not Path(project.folder, "metrics.json").exists()
