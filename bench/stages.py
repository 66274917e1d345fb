"""The six stages of ``pipeline`` under one set of params, every stage's output kept under a name made of all it depends on.

Runs that agree in the first stages share them: one body serves every setting of a data set, one set of
tasks and trajectories every method. A killed run goes on at the stage, and in a training at the
checkpoint, where it was.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from bench.plan import code_of
from ltdi.store import checksum, digest
from pipeline import collect_trajectories, evaluate, generate_weights, meta_train, prepare_tasks, pretrain_body

# stage -> its module, the folder it writes, the sections it reads
STAGES = {
    "pretrain_body": (pretrain_body, "body", ("data", "body")),
    "prepare_tasks": (prepare_tasks, "tasks", ("seed", "data", "tasks")),
    "collect_trajectories": (collect_trajectories, "trajectories", ("seed", "trajectories")),
    "meta_train": (meta_train, "model", ("seed", "method", "methods", "diffusion", "denoiser", "meta")),
    "generate_weights": (generate_weights, "weights", ("seed", "generate")),
    "evaluate": (evaluate, "results", ("evaluate",)),
}


def run_stages(params: dict, runs: Path, *, until: str = "evaluate") -> Path:
    """Run what has not been run, up to a stage; the folder that holds all outputs, as links.

    Generated heads are deleted once they are scored: they take up to half a gigabyte a run, and are made again in less
    than a minute where the stage that scores them changes.
    """
    if until not in STAGES:
        raise ValueError(f"no stage {until!r}")
    folders = _folders(params, runs)
    if not _is_done(folders[until]):
        inputs = {}
        for stage, (module, output, _) in STAGES.items():
            if not _is_done(folders[stage]):
                # one body for all seeds: rows of a setting are compared on the same features
                _run(
                    module.main,
                    params | ({"seed": 0} if stage == "pretrain_body" else {}),
                    folders[stage],
                    inputs,
                    output,
                )
                (folders[stage] / "done").touch()
            inputs[output] = folders[stage] / "data" / output
            if stage == until:
                break
    if until == "evaluate":
        _forget_heads(folders["generate_weights"])
    return folders[until] / "data"


def _folders(params: dict, runs: Path) -> dict[str, Path]:
    """stage -> where its output is kept, by all that it depends on."""
    key, folders = "", {}
    for stage, (_, _, sections) in STAGES.items():
        identity = {section: _identity(_plain(params[section])) for section in sections}
        if stage == "meta_train":
            named = (params["method"]["name"], *params["method"]["controls"])
            identity["methods"] = {name: identity["methods"].get(name) for name in named}
        code = code_of(stage, params["method"]["name"], controls=bool(params["method"]["controls"]))
        key = digest(stage, key, identity, code)
        folders[stage] = runs / stage / key[:16]
    return folders


def _is_done(folder: Path) -> bool:
    return (folder / "done").exists()


def _forget_heads(folder: Path) -> None:
    (folder / "done").unlink(missing_ok=True)
    for file in (folder / "data" / "weights").glob("*.safetensors"):
        file.unlink()


def _identity(section: object) -> object:
    """A section without the keys that say where a data set lies, which is no part of what it is; of a body what its file holds."""
    if not isinstance(section, dict):
        return section
    known = {key: value for key, value in section.items() if key not in ("root", "download")}
    return known | {"weights": checksum(known["weights"])} if known.get("weights") else known


def _run(main: Callable[[Path, Path], None], params: dict, folder: Path, inputs: dict[str, Path], output: str) -> None:
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    for name, source in inputs.items():
        (data / name).symlink_to(source.absolute())
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump({name: _plain(section) for name, section in params.items()}, file)
    main(folder / "params.yaml", data)


def _plain(section: object) -> object:
    return {key: _plain(value) for key, value in section.items()} if isinstance(section, dict) else section
