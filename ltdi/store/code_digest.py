"""The one rule for what is cached: a name made of the inputs and of all the code of this project that makes it."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ltdi.store import digest

PACKAGE = Path(__file__).parents[1]


def name_of(kind: str, *inputs: Any, code: Iterable[str]) -> str:
    """A name for what the modules ``code`` make of the inputs, values as ``store.digest`` takes them: what is made by
    code that was edited since, in a module or in anything of this project that it imports, has another."""
    return digest(kind, code_of(*sorted(set(code))), *inputs)


@cache
def code_of(*modules: str) -> str:
    """A name for the code of modules and of everything of this project that they import, directly or not."""
    files = sorted(set().union(*map(closure, modules)))
    return digest(*(f"{name}\n{path.read_text(encoding='utf-8')}" for name, path in files))


def closure(name: str) -> set[tuple[str, Path]]:
    """The modules of this package that importing a module executes, itself and the packages above it among them, with
    their files."""
    found: set[tuple[str, Path]] = set()
    to_read = [name]
    while to_read:
        module = to_read.pop()
        path = _file(module)
        if path is None or (module, path) in found:
            continue
        found.add((module, path))
        to_read += imports(path)
        package = module.rpartition(".")[0]
        # the top one says the version, which makes nothing else
        to_read += [package] if "." in package else []
    return found


def imports(file: Path) -> list[str]:
    """The modules of this package that a source file imports, ``from a import b`` as "a.b" where b is a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if _file(inner) else node.module)
    return sorted(name for name in names if _file(name))


@cache
def _file(name: str) -> Path | None:
    """Of a module of this package."""
    first, *rest = name.split(".")
    if first != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*rest)
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None
