"""One cell: the six stages under one set of params, every stage's output kept under a name made of all it depends on.

Cells that agree in the first stages share them: one body serves every setting of a data set, one set
of tasks and trajectories every method. A killed cell goes on at the stage that was interrupted.
"""

import shutil
from copy import deepcopy
from pathlib import Path

from ruamel.yaml import YAML

from ltdi.errors import InputError
from ltdi.store import digest
from pipeline import collect_trajectories, evaluate, generate_weights, meta_train, prepare_tasks, pretrain_body

# stage -> its module, the folder it writes, the sections it reads
STAGES = {
    "pretrain_body": (pretrain_body, "body", ("data", "body")),
    "prepare_tasks": (prepare_tasks, "tasks", ("seed", "data", "tasks")),
    "collect_trajectories": (collect_trajectories, "trajectories", ("seed", "trajectories")),
    "meta_train": (meta_train, "model", ("seed", "method", "diffusion", "denoiser", "meta")),
    "generate_weights": (generate_weights, "weights", ("seed", "generate")),
    "evaluate": (evaluate, "results", ("evaluate",)),
}


def override(params: dict, changes: dict[str, object]) -> dict:
    """A copy of ``params`` with dotted keys set, e.g. ``{"tasks.n_way": 20}``.

    Raises:
        InputError: a key that ``params`` does not have.
    """
    params = deepcopy(params)
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = params
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise InputError(f"bench: {key} = {value!r} is not a key of params.yaml; correct the name")
        place[last] = value
    return params


def run_cell(params: dict, runs: Path) -> Path:
    """Run what has not been run; the folder that holds all six outputs, as links."""
    key, folders = "", {}
    for stage, (module, output, sections) in STAGES.items():
        chosen = {section: params[section] for section in sections}
        if stage == "pretrain_body":
            # one body for all seeds: rows of a setting are compared on the same features
            chosen["seed"] = 0
        key = digest(stage, key, {section: _identity(value) for section, value in chosen.items()})
        folder = runs / stage / key[:16]
        if not (folder / "done").exists():
            _run(module.main, params | chosen, folder, folders, output)
            (folder / "done").touch()
        folders[output] = folder / "data" / output
    return folder / "data"


def _identity(section: object) -> object:
    """A section without the keys that say where a data set lies, which is no part of what it is."""
    return {key: value for key, value in section.items() if key not in ("root", "download")} if isinstance(section, dict) else section


def _run(main, params: dict, folder: Path, inputs: dict[str, Path], output: str) -> None:
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
