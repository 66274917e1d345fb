"""What docs/troubleshooting.md says to type is typed here, in a clone whose committed lock is of another machine."""

import re

import pytest
from project import Project

pytestmark = pytest.mark.slow

# as everywhere, the bits differ from machine to machine: a body is of its time of training
STAGES = """stages:
  body:
    cmd: mkdir -p data/body && python -c "import uuid; print(${n}, uuid.uuid4())" > data/body/body
    params: [n]
    outs: [data/body]
  model:
    cmd: mkdir -p data/model data/results && cp data/body/body data/model/ && cp data/body/body data/results/metrics.txt
    deps: [data/body]
    outs: [data/model]
    metrics: [{data/results/metrics.txt: {cache: false}}]
"""


def recipes(repository, initialization):
    """The commands in the paragraph of the document that begins so."""
    text = (repository / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    (paragraph,) = (each for each in text.split("\n\n") if each.startswith(f"**{initialization}"))
    spans = re.findall(r"`([^`]+)`", paragraph.replace("\n", " "))
    return [span for span in spans if span.startswith(("git ", "dvc ", "rm "))]


@pytest.fixture
def project(tmp_path):
    """A clone in which the pipeline has run: the lock that was committed is of other bits."""
    first = Project(tmp_path / "first" / "project")
    first.folder.mkdir(parents=True)
    (first.folder / "dvc.yaml").write_text(STAGES)
    (first.folder / "params.yaml").write_text("n: 1\n")
    (first.folder / ".gitignore").write_text("/data/*\n!/data/results/\n/data/results/*\n!/data/results/metrics.txt\n")
    first.commit("stages")
    first.run("dvc", "init", "-q")
    assert first.repro() == ["body", "model"]
    first.commit("a run")
    made = Project(tmp_path / "clone" / "project")
    made.folder.parent.mkdir()
    first.run("git", "clone", "-q", str(first.folder), str(made.folder))
    for hparam, value in (("user.name", "test"), ("user.email", "test@localhost")):
        made.run("git", "config", hparam, value)
    assert made.repro() == ["body", "model"]
    return made


def contents(project):
    return [(project.folder / place).read_text() for place in ("data/body/body", "data/model/body", "params.yaml")]


def test_the_way_back_from_an_experiment_is_to_the_users_own_run(project, repository):
    own = contents(project)
    project.run("dvc", "exp", "run", "-S", "n=2")
    assert contents(project) != own
    (way,) = (each for each in recipes(repository, "`params.yaml` has changed") if "&&" in each)
    project.run("bash", "-ec", way)
    assert contents(project) == own
    assert project.repro() == []


@pytest.mark.parametrize("harm", ["truncate -s 0 dvc.lock", "git checkout -q dvc.lock && dvc checkout || true"])
def test_the_way_back_from_a_lost_lock_is_to_the_users_own_run(harm, project, repository):
    """A kill emptied it, or it was taken from the commit and the outputs by it."""
    own = contents(project)
    project.run("bash", "-ec", harm)
    for command in recipes(repository, "`dvc.lock` is empty")[:2]:
        project.run(*command.split())
    assert contents(project) == own


def test_without_git(project, repository, tmp_path):
    """A folder that was unpacked from an archive."""
    unpacked = Project(tmp_path / "unpacked" / "project")
    unpacked.folder.mkdir(parents=True)
    project.run("bash", "-ec", f"git archive HEAD | tar -x -C '{unpacked.folder}'")
    with pytest.raises(AssertionError, match="git"):
        unpacked.repro()
    for command in recipes(repository, "There is no git"):
        unpacked.run(*command.split())
    assert unpacked.repro() == [] and (unpacked.folder / "data" / "model" / "body").is_file()
