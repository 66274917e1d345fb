"""The stages of dvc.yaml, which is their only list, run under one set of params, their outputs kept.

An output is kept by all that it depends on. Runs that agree in the first stages share them: one body serves every
setting of a data set, one set of tasks and trajectories every method. A killed run goes on at the stage, and in a
training at the checkpoint, where it was.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench import ROOT, RUNS
from bench.settings import load_yaml
from ltdi.bodies.registry import HUB, is_ours
from ltdi.store import digest, read_table, read_tensors, write_table

OF_ONE_SEED = "pretrain_body"
"""One body for all seeds: rows of a setting are compared on the same features."""

FORGOTTEN = "generate_weights"
"""Its weights take up to half a gigabyte a run, and are made again in a minute where scoring changes."""

PLACE, PLACED = ("root", "download"), ("data", "texts")
"""Where a data set lies is no part of what it is."""


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: the dotted ``params``, the ``deps`` and ``outs`` as they stand there, ``${…}`` in them."""

    name: str
    command: str
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Of the outputs, in the folder data."""
        return Path(self.outs[0]).parts[1]

    def run(self, params_file: Path, data: Path) -> None:
        """What its command runs, in this process."""
        import_module(self.command.split()[-1]).main(params_file, data)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What it reads of ``params``, by dotted key; of baselines' hyperparameters too, which dvc.yaml does not
        track."""
        names = (params["method"]["name"], *params["method"]["baselines"])
        keys = (key.replace("${method.name}", name) for key in self.params for name in names)
        return {key: _at(params, key) for key in keys}

    def code(self, params: Mapping[str, Any]) -> str:
        """A name for the code that it runs: the files among its deps, those of baselines only where there are any."""
        deps = [re.sub(r"\$\{(.+?)\}", lambda found: str(_at(params, found[1])), dep) for dep in self.deps]
        files = {file for dep in deps if not dep.startswith("data/") for file in _sources(ROOT / dep)}
        if not params["method"]["baselines"]:
            # by their names, not by import: a method that cannot be imported stops its own cell alone
            own = f"{params['method']['name']}.py"
            files = {file for file in files if file.parent.name != "baselines" or file.name == own}
        return name_of_code(ROOT, tuple(sorted(files)))


@cache
def read_stages(file: Path = ROOT / "dvc.yaml") -> dict[str, Stage]:
    """The stages in their order, by name."""
    return {name: _stage(name, said) for name, said in load_yaml(file)["stages"].items()}


def _stage(name: str, said: Mapping[str, Any]) -> Stage:
    outs = [out for kind in ("outs", "metrics") for out in said.get(kind, [])]
    paths = (next(iter(out)) if isinstance(out, dict) else out for out in outs)
    return Stage(name, said["cmd"], tuple(said["params"]), tuple(said["deps"]), tuple(paths))


def _at(params: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key, None where there is nothing: the stage that reads it says so in its own words."""
    value: Any = params
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _sources(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []


@cache
def name_of_code(root: Path, files: tuple[Path, ...]) -> str:
    """A name for what source files hold."""
    return digest(*(f"{file.relative_to(root)}\n{file.read_text(encoding='utf-8')}" for file in files))


def run_stages(
    params: dict[str, Any], runs: Path = RUNS, *, until: str | None = None, seeds: Mapping[str, int] | None = None
) -> Path:
    """Run what has not been run, up to a stage or to the last; the folder that holds all outputs, as links. ``seeds``
    names stages that have one of their own."""
    seeds = {OF_ONE_SEED: 0} | dict(seeds or {})
    stages, folders = read_stages(), _folders(params, runs, seeds)
    last = until or list(stages)[-1]
    inputs: dict[str, Path] = {}
    for stage in () if _is_done(folders[last]) else stages.values():
        if not _is_done(folders[stage.name]):
            _run(stage, _of_stage(stage, params, seeds), folders[stage.name], inputs)
        inputs[stage.folder] = folders[stage.name] / "data" / stage.folder
        if stage.name == last:
            break
    if until is None:
        _forget_weights(folders[FORGOTTEN])
    return folders[last] / "data"


def _folders(params: dict[str, Any], runs: Path, seeds: Mapping[str, int]) -> dict[str, Path]:
    """stage -> where its output is kept, by all that it depends on."""
    key, folders = "", {}
    for name, stage in read_stages().items():
        key = digest(name, key, _identity(stage, _of_stage(stage, params, seeds)), stage.code(params))
        folders[name] = runs / name / key[:16]
    return folders


def _identity(stage: Stage, params: dict[str, Any]) -> dict[str, Any]:
    """The params that a stage reads, of a body's file what it holds."""
    values = stage.values(params)
    for section in set(PLACED) & set(values):
        values[section] = {key: value for key, value in values[section].items() if key not in PLACE}
    if "body" in values:
        values["body"] = values["body"] | {"weights": name_of_body(params)}
    return values


def name_of_body(params: Mapping[str, Any]) -> str | None:
    """A name for what the file holds that params take the body from."""
    file = params["body"]["weights"]
    if not file or str(file) == HUB:
        return file
    if is_ours(Path(file)):
        return digest(*read_tensors(file, kind="body"))
    # of timm's own; what is wrong with it the stage says
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if Path(file).is_file() else str(file)


def _of_stage(stage: Stage, params: dict[str, Any], seeds: Mapping[str, int]) -> dict[str, Any]:
    return params | {"seed": seeds.get(stage.name, params["seed"])}


def _run(stage: Stage, params: dict[str, Any], folder: Path, inputs: Mapping[str, Path]) -> None:
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    for name, source in inputs.items():
        (data / name).symlink_to(source.absolute())
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)
    stage.run(folder / "params.yaml", data)
    (folder / "done").touch()


def _is_done(folder: Path) -> bool:
    return (folder / "done").exists()


def _forget_weights(folder: Path) -> None:
    """Once they are scored; their times stay, and no longer name them."""
    (folder / "done").unlink(missing_ok=True)
    weights = folder / "data" / "weights"
    if files := list(weights.rglob("*.safetensors")):
        write_table(weights / "timing.parquet", read_table(weights / "timing.parquet"))
    for file in files:
        file.unlink()


def train_classes(data: Path, *, refit: bool = False) -> int:
    """How many classes a run's methods learned from, symmetries not counted; with ``refit``, of the scenario domains,
    meta-val's as well."""
    facts = read_tensors(data / "tasks" / "features.safetensors", kind="features")[1]
    return facts["train_classes"] + (facts["val_classes"] if refit else 0)
