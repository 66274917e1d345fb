"""One rule for what is cached: it is made again when its inputs or the code that makes it changed, and then alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.harness.stages import read_stages
from ltdi.bodies import embedding
from ltdi.store import code_digest, read_tensors

pytestmark = pytest.mark.slow

FOLDERS = {name: stage.folder for name, stage in read_stages().items()}
# clocks are read for these
TIMED = {"weights/timing.parquet", "results/metrics.json"}
EVERYTHING = {"body", "features", "trajectories", "method"}


def kinds_in(store: Path) -> dict[Path, str]:
    """What each file of a store holds; a checkpoint is of the "body" or of the "method"."""
    kinds = {file: file.parent.name for file in store.rglob("*.safetensors")}
    for file in (file for file, kind in kinds.items() if kind == "checkpoints"):
        tensors, _ = read_tensors(file, kind="checkpoints")
        kinds[file] = "body" if any(name.startswith("model/body.") for name in tensors) else "method"
    return kinds


def contents(data: Path) -> dict[str, bytes]:
    files = (file for file in data.rglob("*") if file.is_file())
    return {str(file.relative_to(data)): file.read_bytes() for file in files}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, content in after.items() if before[name] != content} - TIMED


def shards(data: dict[str, bytes]) -> set[str]:
    return {name for name in data if name.startswith("trajectories/meta_")}


@pytest.fixture
def run_again(finished, run_stage, tmp_path, monkeypatch) -> Callable[..., set[str]]:
    """Runs every stage as DVC does after an edit of a file of ltdi/: what was made that the store did not hold."""
    store = Path(shutil.copytree(finished.store, tmp_path / "store"))

    def edit(file: str) -> None:
        package = shutil.copytree(code_digest.PACKAGE, tmp_path / "ltdi", ignore=shutil.ignore_patterns("__pycache__"))
        with (package / file).open("a", encoding="utf-8") as source:
            source.write("# edited\n")
        monkeypatch.setattr(code_digest, "PACKAGE", package)

    def run(file: str | None = None, *, last: str = "meta_train") -> set[str]:
        if file:
            edit(file)
        forget()
        before = kinds_in(store)
        for stage, folder in FOLDERS.items():
            shutil.rmtree(finished.data / folder)
            run_stage(stage, finished.params, finished.data)
            if stage == last:  # later ones cache nothing
                break
        return {kind for path, kind in kinds_in(store).items() if path not in before}

    def forget() -> None:
        code_digest.code_of.cache_clear()
        code_digest._file.cache_clear()

    yield run
    monkeypatch.undo()
    forget()


def test_nothing_is_made_again_where_nothing_changed(finished, run_again):
    before = contents(finished.data)
    assert run_again(last="evaluate") == set()
    assert changed(before, contents(finished.data)) == set()


@pytest.mark.parametrize(
    "file, made",
    [
        ("utils/seeding.py", EVERYTHING),
        ("datasets/images.py", {"body", "features"}),
        ("bodies/pretraining.py", {"body"}),
        ("bodies/conv4.py", {"body", "features"}),
        ("bodies/embedding.py", {"features"}),
        ("tasks/class_tasks.py", {"trajectories", "method"}),
        ("tasks/base.py", {"trajectories", "method"}),
        ("utils/metrics.py", {"trajectories", "method"}),
        ("learners/two_layer_head.py", {"trajectories", "method"}),
        ("learners/fitting.py", {"trajectories", "method"}),
        ("methods/generators/ltdi.py", {"method"}),
        ("diffusion/process.py", {"method"}),
        ("methods/baselines/ridge.py", set()),
        ("methods/generators/lvdi.py", set()),
        ("bodies/feature_extractor.py", set()),
    ],
)
def test_an_edit_that_changes_no_result(file, made, finished, run_again):
    before = contents(finished.data)
    assert run_again(file) == made
    different = changed(before, contents(finished.data))
    allowed = set()
    if "method" in made:  # the seconds that it took
        allowed |= {"model/metrics.json"}
    assert different <= allowed


def test_an_edit_that_changes_features(finished, run_again, monkeypatch):
    as_they_are = embedding.embedded
    monkeypatch.setattr(
        embedding, "embedded", lambda *given, **hparams: map(torch.square, as_they_are(*given, **hparams))
    )
    before = contents(finished.data)
    assert run_again("bodies/embedding.py", last="evaluate") == EVERYTHING - {"body"}
    different = changed(before, contents(finished.data))
    assert "body/body.safetensors" not in different
    again = {"tasks/features.safetensors", "model/methods/ltdi.safetensors", "weights/ltdi/000000.safetensors"}
    assert again | shards(before) <= different
    assert "tasks/images.safetensors" not in different


@pytest.mark.parametrize(
    "changes, made",
    [
        ({"tasks.meta_test": 20}, {"trajectories"}),
        ({"tasks.views": 1}, {"features", "trajectories", "method"}),
        ({"trajectories.lr": 0.02}, {"trajectories", "method"}),
        ({"trajectories.max_dropped": 0.5}, set()),
        ({"meta.inner_lr": 0.06}, {"method"}),
        ({"generate.heads": 2, "evaluate.landscape_points": 9}, set()),
    ],
    ids=lambda value: " ".join(sorted(map(str, value))),
)
def test_other_params(changes, made, finished, run_again, write_params, tmp_path):
    finished.params = write_params(tmp_path / "other", changes)
    assert run_again() == made
