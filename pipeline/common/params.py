"""params.yaml, validated: every mistake one line.

A stage asks for the sections that dvc.yaml declares for it and sees no others, so that what it reads
is what DVC tracks. All that are there are checked, so that a mistake in those of a later stage ends the first.
"""

from pathlib import Path
from types import SimpleNamespace

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ltdi.config import SECTIONS, Method
from ltdi.utils.errors import InputError, refused_by_system, short

RENAMED = {
    "trajectories.start": "trajectories.initialization",
    "method.controls": "method.baselines",
    "diffusion.visited": "diffusion.on_policy",
    "learner.choose_on": "learner.selection_tasks",
    "denoiser.direct": "denoiser.linear_map",
    "meta.uses": "meta.uses_per_trajectory",
}
"""Keys of earlier versions -> today's."""


def load(path: str | Path, *sections: str) -> SimpleNamespace:
    """The named sections of a params file.

    Raises:
        InputError: the file is missing or not YAML, or a section or key, of these or of others that are there, is
            missing, unknown or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; run from the folder that holds params.yaml, or name one with --params")
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refused_by_system(error, path) from error
    except (YAMLError, ValueError, RecursionError) as error:  # e.g. no text, nested too deeply
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())[:300]})") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds {type(raw).__name__}, not a mapping of sections")
    unknown = sorted(set(map(str, raw)) - set(SECTIONS))
    if unknown:
        raise InputError(f"{path}: unknown section {unknown[0]!r}; allowed: {', '.join(SECTIONS)}")
    wanted = {name: _section(path, name, raw) for name in sections}
    for name in SECTIONS:
        section = wanted[name] if name in wanted else _section(path, name, raw) if name in raw else None
        if isinstance(section, Method):
            _check_methods(path, section)
    return SimpleNamespace(**wanted)


def _check_methods(path: Path, section: Method) -> None:
    """
    Raises:
        InputError: one that is named has no hyperparameters, as each method and baseline has.
    """
    allowed = SECTIONS["methods"].model_fields
    for key, names in (("method.name", [section.name]), ("method.baselines", section.baselines)):
        for name in names:
            if name not in allowed:
                raise InputError(f"{path}: {key} = {short(name)} is unknown; allowed: {', '.join(allowed)}")


def _section(path: Path, name: str, raw: dict) -> object:
    if name not in raw:
        raise InputError(f"{path}: section {name!r} is missing; copy it from the params.yaml of the repository")
    for key in raw[name] if isinstance(raw[name], dict) else ():
        if f"{name}.{key}" in RENAMED:
            raise InputError(f"{path}: {name}.{key} is called {RENAMED[f'{name}.{key}']} now; rename it")
    try:
        return TypeAdapter(SECTIONS[name]).validate_python(raw[name])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (name, *first["loc"])))
        if first["type"] == "missing":
            raise InputError(f"{path}: {key} is missing; copy it from the params.yaml of the repository") from error
        if first["type"] == "extra_forbidden":
            allowed = (
                ", ".join(SECTIONS[name].model_fields)
                if len(first["loc"]) == 1
                else "see the params.yaml of the repository"
            )
            raise InputError(f"{path}: {key} = {short(first['input'])} is unknown; allowed keys: {allowed}") from error
        raise InputError(
            f"{path}: {key} = {short(first['input'])} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"
        ) from error
