"""Lt-Di: the weights of a network's head, generated for a task instead of trained.

Shapes, in every docstring:
    B tasks in a batch    N n_way     K n_shot    Q n_query a class
    F features            C numbers of a row      D generated weights     P recorded trajectory points
    H hidden units of the head

Imports go down only, by the layers in pyproject.toml; terms are those of docs/glossary.md.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """``ltdi.load`` and ``ltdi.Run``, imported when they are asked for: stages do without."""
    if name in ("load", "Run"):
        return getattr(import_module("ltdi.inference.run"), name)
    raise AttributeError(f"module 'ltdi' has no attribute {name!r}")
