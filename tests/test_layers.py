"""Imports go down only, by the floors that the docstring of ltdi/__init__.py lists."""

import ast
import re
from pathlib import Path

import pytest

import ltdi
from bench.stages import read_stages

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("ltdi/**/*.py"), *ROOT.glob("pipeline/**/*.py")])
FLOORS = {
    module: int(floor)
    for floor, modules in re.findall(r"floor\s+(\d+)\s+(?:is\s+)?``([^`]*)``", ltdi.__doc__)
    for module in modules.split()
}
STAGES = read_stages()
METHOD_BASES = ("base", "setup", "trained", "diffusion_method", "known_rows", "transductive")
every_source = pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))


def module_of(file: Path) -> tuple[str, ...]:
    """("ltdi", "datasets", "glyphs"); a package's own file has the package's name."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def floor(module: tuple[str, ...]) -> int:
    if module[0] == "pipeline":
        return max(FLOORS.values()) + 1
    assert module[1] in FLOORS, f"the docstring of ltdi/__init__.py puts {module[1]} on no floor"
    return FLOORS[module[1]]


def test_every_module_has_a_floor_and_every_floor_its_modules():
    there = {module_of(file)[1] for file in SOURCES if len(module_of(file)) > 1 and module_of(file)[0] == "ltdi"}
    assert there == set(FLOORS)


@every_source
def test_imports_go_down(file, imports_of):
    module = module_of(file)
    if module == ("ltdi",):
        # what it offers is imported when it is asked for, so that a stage reaches no more than it needs
        assert not [name for name in imports_of(file) if name.startswith(("ltdi", "pipeline"))]
        return
    for name in imports_of(file):
        other = tuple(name.split("."))
        if other[0] not in ("ltdi", "pipeline") or other[:2] == ("ltdi", "errors"):
            continue
        assert len(other) > 1, f"imports all of {name}; name the module"
        if module[0] == other[0] == "pipeline":
            assert other[1] not in STAGES, f"{name} is a stage"
            continue
        if module[:2] == other[:2]:
            continue
        assert floor(other) < floor(module), f"{name} is on floor {floor(other)}, this file on floor {floor(module)}"


@pytest.mark.parametrize(
    "file", [f for f in SOURCES if f.parent.name == "methods" and f.stem != "__init__"], ids=lambda file: file.stem
)
def test_methods_do_not_import_each_other(file, imports_of):
    siblings = [name.split(".")[2] for name in imports_of(file) if name.startswith("ltdi.methods.")]
    assert set(siblings) <= set(METHOD_BASES)


@pytest.mark.parametrize(
    "file", [f for f in SOURCES if f.parent.name == "scenarios" and f.stem != "__init__"], ids=lambda file: file.stem
)
def test_scenarios_import_neither_each_other_nor_methods(file, imports_of):
    siblings = {name for name in imports_of(file) if name.startswith(("ltdi.scenarios", "ltdi.methods"))}
    assert siblings <= {"ltdi.scenarios.base", "ltdi.scenarios.image_tasks", "ltdi.scenarios.adapter_start"}


@every_source
def test_foreign_packages_stay_where_they_belong(file, imports_of):
    forbidden = {"dvc", "pickle", "yaml", "joblib", "dill", "cloudpickle"}
    if module_of(file)[0] == "ltdi":
        forbidden |= {"ruamel", "tqdm", "logging"}
        # files are checked as params are, in one place
        forbidden |= set() if file.name in ("schema.py", "schemas.py") else {"pydantic"}
        # the command alone talks to a user
        talks = {"cli.py": {"typer", "rich"}, "console.py": {"rich"}}
        forbidden |= {"typer", "rich"} - talks.get(file.name, set())
    assert not forbidden & {name.split(".")[0] for name in imports_of(file)}


@every_source
def test_nothing_is_pickled(file):
    calls = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert not calls & {"torch.load", "torch.save", "np.load", "np.save", "pd.read_pickle"}
    assert not {call for call in calls if call.endswith(".to_pickle")}
