"""Tiny params, and one finished run of all stages that tests copy from."""

import os

# tensors are tiny here: more threads cost more than they give
os.environ.setdefault("OMP_NUM_THREADS", "1")

import ast
import importlib
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import call
from ruamel.yaml import YAML
from safetensors.torch import save_file

from bench.harness.stages import read_stages
from ltdi.datasets import DATASETS, glyphs
from ltdi.store import artifacts
from ltdi.utils.seeding import generator

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = list(read_stages())
AUGMENT = {"max_rotation": 10, "max_shift": 0.07, "max_scale": 0.1, "max_shear": 0.1}
# also what an experiment in this workspace may have changed, so that no test hangs on it
TINY = {
    "seed": 0,
    "scenario.name": "few_shot",
    "data.name": "glyphs",
    "data.root": "data/raw",
    "data.download": False,
    "data.train_on_val": False,
    "data.splits": None,
    "data.size": 84,
    "data.images_a_class": None,
    "data.domains": {"train": [], "val": [], "test": []},
    "texts.body": "model",
    "texts.root": "glue",
    "texts.meta_train": ["a", "b"],
    "texts.meta_val": ["c"],
    "texts.meta_test": ["d"],
    "texts.most": 200,
    "texts.length": 12,
    "texts.layers": 2,
    "texts.share": 0.5,
    "texts.fitted": 8,
    "body.name": "conv4",
    "body.weights": None,
    "body.image_size": None,
    "body.filters": 16,
    "body.transforms": "none",
    "body.steps": 20,
    "body.classes_a_batch": 16,
    "body.images_a_class": 4,
    "body.lr": 2e-3,
    "body.weight_decay": 1e-4,
    "body.ema": 0.99,
    "body.precision": "float32",
    **{f"body.augment.{key}": value for key, value in AUGMENT.items()},
    "tasks.n_way": 5,
    "tasks.n_shot": 1,
    "tasks.n_query": 5,
    "tasks.train_n_way": None,
    "tasks.transforms": "none",
    "tasks.val_transforms": "none",
    "tasks.views": 0,
    "tasks.names.encoder": None,
    "tasks.names.prompts": "name",
    "tasks.names.descriptions": None,
    "tasks.names.learn_from": "images",
    "tasks.names.classes": None,
    "tasks.names.classifier": None,
    "tasks.meta_train": 60,
    "tasks.meta_val": 20,
    "tasks.meta_test": 30,
    **{f"tasks.augment.{key}": value for key, value in AUGMENT.items()},
    "learner.name": "two_layer_head",
    "learner.hidden": 16,
    "learner.normalise": "none",
    "learner.projection": None,
    "learner.rank": 2,
    "learner.alpha": 4.0,
    "learner.modules": ["query", "value"],
    "trajectories.initialization": "closed_form",
    "trajectories.fit_on": "class",
    "trajectories.augment": False,
    "trajectories.optimizer": "adam",
    "trajectories.lr": 1e-2,
    "trajectories.steps": 6,
    "trajectories.length": 4,
    "trajectories.sam": 0.0,
    "trajectories.shard_size": 500,
    "trajectories.max_dropped": 0.01,
    "method.name": "ltdi",
    "method.baselines": ["prototype", "ridge", "head_sgd", "prototype_sgd", "mean_head", "nearest_head"],
    "diffusion.steps": 3,
    "diffusion.schedule": "cosine",
    "diffusion.max_beta": 0.999,
    "diffusion.prediction": "residual",
    "diffusion.weighting": "weights",
    "diffusion.on_policy": 1.0,
    "diffusion.chain_noise": 0.0,
    "diffusion.start_noise": 0.0,
    "diffusion.gradient_input": False,
    "denoiser.name": "transformer",
    "denoiser.width": 32,
    "denoiser.depth": 1,
    "denoiser.heads": 4,
    "denoiser.neurons_a_token": 8,
    "denoiser.condition": "mean",
    "denoiser.dropout": 0.1,
    "meta.steps": 8,
    "meta.new_tasks": 2,
    "meta.n_way": 8,
    "meta.min_shot": 1,
    "meta.max_shot": 2,
    "meta.query_images": 5,
    "meta.recorded_tasks": 8,
    "meta.query_loss": 1.0,
    "meta.weight_loss": 0.01,
    "meta.inner_steps": 1,
    "meta.inner_optimizer": "sgd",
    "meta.inner_lr": 0.05,
    "meta.outer_lr": 3e-3,
    "meta.lr_schedule": "cosine",
    "meta.ema": 0.99,
    "meta.val_every": 4,
    "meta.refit": False,
    "generate.heads": 1,
    "generate.adapt_steps": 0,
    "generate.adapt_lr": 1e-3,
    "generate.timing_repeats": 1,
    "generate.chains": 5,
    "evaluate.task": 0,
    "evaluate.landscape_points": 7,
}


@pytest.fixture(scope="session")
def global_state() -> Callable[[], tuple]:
    """What of torch and of the process's settings a library may not change, as it is when asked."""

    def now() -> tuple:
        kinds = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
        rounded = [kind.fp32_precision for kind in kinds]
        for kind in (torch.backends.cuda.matmul, torch.backends.cudnn):
            try:
                rounded.append(kind.allow_tf32)
            except RuntimeError:  # a program said it in the newer way
                rounded.append(None)
        modes = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
        threads = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
        drawn = torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()
        return rounded, *modes, *threads, *drawn, dict(os.environ)

    return now


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and a device that every machine has."""
    monkeypatch.setenv("LTDI_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LTDI_DEVICE", os.environ.get("LTDI_DEVICE", "cpu"))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


def write_tiny(folder: Path, changes: Mapping[str, object] = {}) -> Path:
    """params.yaml in a folder: the repository's, made tiny, with ``changes`` by dotted key."""
    params = YAML().load(REPOSITORY / "params.yaml")
    for key, value in (TINY | dict(changes)).items():
        *sections, last = key.split(".")
        part = params
        for section in sections:
            part = part[section]
        part[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    YAML().dump(params, folder / "params.yaml")
    return folder / "params.yaml"


@pytest.fixture(scope="session")
def write_params() -> Callable[..., Path]:
    return write_tiny


@pytest.fixture(scope="session")
def few_glyphs():
    """60 glyph classes in place of 500 for the stages of this process: 36 / 9 / 15."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        few = replace(DATASETS["glyphs"], load=partial(glyphs.load, n_classes=60))
        monkeypatch.setitem(DATASETS, "glyphs", few)
        yield


@pytest.fixture(scope="session")
def run_stage(few_glyphs) -> Callable[[str, Path, Path], None]:
    """Runs a stage in this process: ``run_stage(name, params_file, data)``."""
    return lambda name, params_file, data: importlib.import_module(f"pipeline.{name}").main(params_file, data)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory, write_params, run_stage) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("finished")
    params_file = write_params(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTDI_STORE", str(folder / "store"))
        monkeypatch.setenv("LTDI_DEVICE", os.environ.get("LTDI_DEVICE", "cpu"))
        for stage in STAGES:
            run_stage(stage, params_file, folder / "data")
    # links into the store would let a test change the store, or the store a test
    shutil.copytree(folder / "data", folder / "copy")
    return SimpleNamespace(params=params_file, data=folder / "copy", store=folder / "store")


@pytest.fixture
def finished(_finished, tmp_path) -> SimpleNamespace:
    """``params`` and ``data`` of a run of all stages, the test's own copy; ``store``: what it cached, to copy from."""
    shutil.copytree(_finished.data, tmp_path / "data")
    params = shutil.copy(_finished.params, tmp_path / "params.yaml")
    return SimpleNamespace(params=params, data=tmp_path / "data", store=_finished.store)


@pytest.fixture
def mixed(monkeypatch) -> None:
    """Files of two runs in one folder are taken for those of one."""
    monkeypatch.setattr(artifacts, "check_origins", lambda *_: None)


@pytest.fixture
def task(finished, tmp_path) -> SimpleNamespace:
    """A meta-test task as folders, the run it comes from, and a function that classifies by it."""
    assert call("example", "--task", 3, "--data", finished.data).exit_code == 0
    folder = finished.data / "example"
    return SimpleNamespace(
        support=folder / "support",
        query=folder / "query",
        data=finished.data,
        csv=tmp_path / "answers.csv",
        call=lambda *arguments: call("classify", *arguments, "--data", finished.data),
    )


@pytest.fixture(scope="session")
def imports_of() -> Callable[[Path], list[str]]:
    """The modules that a source file imports, ``from a import b`` as "a.b" where b is a module."""

    def is_module(name: str) -> bool:
        path = REPOSITORY / name.replace(".", "/")
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    def read(file: Path) -> list[str]:
        names = []
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    names.append(name if is_module(name) else node.module)
        return sorted(set(names))

    return read


@pytest.fixture
def networks(tmp_path):
    """Eight independent networks, in folders of their own, and a copy of the last."""
    stream, folder = generator(0, "others"), tmp_path / "others"
    for j in range(8):
        (folder / f"net{j}").mkdir(parents=True)
        tensors = {"a.weight": torch.randn(40, 50, generator=stream), "a.bias": torch.randn(40, generator=stream)}
        save_file(tensors, folder / f"net{j}" / "model.safetensors")
    shutil.copytree(folder / "net7", folder / "net8")
    return folder
