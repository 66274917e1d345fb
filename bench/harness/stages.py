"""Run the stages of dvc.yaml, which is their only list, under one set of params, and keep their outputs.

An output is kept by a key of all that it depends on: params, code, the outputs before it. Runs that agree in the first
stages share them: one body serves every setting of a data set, one set of tasks and trajectories every method. A killed
run continues at the stage, and within a training at the checkpoint, where it was.
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
from bench.harness.settings import bench_params, load_yaml
from ltdi.bodies.registry import HUB, is_ours
from ltdi.store import digest, read_table, read_tensors, write_table

OF_ONE_SEED = "pretrain_body"
"""One body for all seeds: rows of a setting are compared on the same features."""
FORGOTTEN = "generate_weights"
"""Its weights take up to half a gigabyte a run, and are made again in a minute where scoring changes."""
PLACE, PLACED = ("root", "download"), ("data", "texts")
"""Keys and sections that say where data lie; a run's identity leaves them out."""


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: the dotted ``params`` and the ``deps`` as they stand there, ``${…}`` in them; ``folder`` of
    its outputs in data/."""

    name: str
    command: str
    params: tuple[str, ...]
    deps: tuple[str, ...]
    folder: str

    def run(self, params_file: Path, data: Path) -> None:
        """Run the command's module in this process."""
        import_module(self.command.split()[-1]).main(params_file, data)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The part of ``params`` that it reads, by dotted key; with the baselines' hyperparameters, which dvc.yaml does
        not track."""
        names = (params["method"]["name"], *params["method"]["baselines"])
        keys = (key.replace("${method.name}", name) for key in self.params for name in names)
        return {key: _at(params, key) for key in keys}

    def code(self, params: Mapping[str, Any]) -> str:
        """A digest of the source files among its deps; those of baselines only where there are any."""
        deps = [re.sub(r"\$\{(.+?)\}", lambda found: str(_at(params, found[1])), dep) for dep in self.deps]
        files = {file for dep in deps if not dep.startswith("data/") for file in _sources(ROOT / dep)}
        if not params["method"]["baselines"]:
            # by their names, not by import: a method that cannot be imported stops its own cell alone
            others = (name for name in bench_params()["baselines"] if name != params["method"]["name"])
            files -= {ROOT / f"ltdi/methods/baselines/{name}.py" for name in others}
        return digest_of_code(ROOT, tuple(sorted(files)))

    def identity(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` without places; of a body's file its content."""
        values = self.values(params)
        for section in set(PLACED) & set(values):
            values[section] = {key: value for key, value in values[section].items() if key not in PLACE}
        if "body" in values:
            values["body"] = values["body"] | {"weights": _content_of_body(params)}
        return values


@cache
def read_stages(file: Path = ROOT / "dvc.yaml") -> dict[str, Stage]:
    """The stages in their order, by name."""
    return {name: _stage(name, entry) for name, entry in load_yaml(file)["stages"].items()}


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    return Stage(name, entry["cmd"], tuple(entry["params"]), tuple(entry["deps"]), Path(entry["outs"][0]).parts[1])


def _at(params: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none: the stage that reads it reports that itself."""
    value: Any = params
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _sources(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []


@cache
def digest_of_code(root: Path, files: tuple[Path, ...]) -> str:
    return digest(*(f"{file.relative_to(root)}\n{file.read_text(encoding='utf-8')}" for file in files))


def keys_of(params: dict[str, Any], seeds: Mapping[str, int] | None = None) -> dict[str, str]:
    """The key of each stage's output; ``seeds`` names stages that have a seed of their own."""
    key, keys = "", {}
    for name, stage in read_stages().items():
        key = digest(name, key, stage.identity(_seeded(name, params, seeds)), stage.code(params))
        keys[name] = key
    return keys


def run_stages(
    params: dict[str, Any], runs: Path = RUNS, *, until: str | None = None, seeds: Mapping[str, int] | None = None
) -> Path:
    """Run the stages that have no output yet, up to one or to the last; the folder of all outputs, as links."""
    stages = read_stages()
    folders = {name: runs / name / key[:16] for name, key in keys_of(params, seeds).items()}
    last = until or list(stages)[-1]
    inputs: dict[str, Path] = {}
    for name, stage in () if (folders[last] / "done").exists() else stages.items():
        if not (folders[name] / "done").exists():
            _run(stage, _seeded(name, params, seeds), folders[name], inputs)
        inputs[stage.folder] = folders[name] / "data" / stage.folder
        if name == last:
            break
    if until is None:
        _forget_weights(folders[FORGOTTEN])
    return folders[last] / "data"


def _seeded(stage: str, params: dict[str, Any], seeds: Mapping[str, int] | None) -> dict[str, Any]:
    return params | {"seed": ({OF_ONE_SEED: 0} | dict(seeds or {})).get(stage, params["seed"])}


def _run(stage: Stage, params: dict[str, Any], folder: Path, inputs: Mapping[str, Path]) -> None:
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    for name, source in inputs.items():
        (data / name).symlink_to(source.absolute())
    YAML().dump(params, folder / "params.yaml")
    stage.run(folder / "params.yaml", data)
    (folder / "done").touch()


def _content_of_body(params: Mapping[str, Any]) -> str | None:
    file = params["body"]["weights"]
    if not file or str(file) == HUB:
        return file
    if is_ours(Path(file)):
        return digest(*read_tensors(file, kind="body"))
    # of timm's own; a file that is wrong is reported by the stage
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if Path(file).is_file() else str(file)


def _forget_weights(folder: Path) -> None:
    """Delete generated weights once they are scored; their times stay, and no longer name them."""
    (folder / "done").unlink(missing_ok=True)
    weights = folder / "data" / "weights"
    if files := list(weights.rglob("*.safetensors")):
        write_table(weights / "timing.parquet", read_table(weights / "timing.parquet"))
    for file in files:
        file.unlink()


def train_classes(data: Path, *, refit: bool = False) -> int:
    """Number of classes that a run's methods learned from, symmetries not counted; with ``refit``, of the scenario
    domains, meta-val's as well."""
    facts = read_tensors(data / "tasks" / "features.safetensors", kind="features")[1]
    return facts["train_classes"] + (facts["val_classes"] if refit else 0)
