"""Lt-Di: the weights of a network's head, generated for a task instead of trained.

Shapes, in every docstring:
    B tasks in a batch    N n_way     K n_shot    Q n_query a class
    F features            C numbers of a row      D generated weights     P recorded trajectory points
    H hidden units of the head

Imports go down only, by the layers in pyproject.toml; terms are those of docs/glossary.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltdi.inference.few_shot_classifier import FewShotClassifier
    from ltdi.inference.head import Head
    from ltdi.inference.loading import load, load_head, shipped
    from ltdi.inference.model import Model
    from ltdi.inference.pack import pack
    from ltdi.inference.run import Run

__version__ = "0.2.0"

__all__ = ["FewShotClassifier", "Head", "Model", "Run", "load", "load_head", "pack", "shipped"]

_MODULES = {
    "FewShotClassifier": "few_shot_classifier",
    "Head": "head",
    "Model": "model",
    "Run": "run",
    "load": "loading",
    "load_head": "loading",
    "pack": "pack",
    "shipped": "loading",
}


def __getattr__(name: str) -> Any:
    """Import what is used: torch takes seconds, and the stages do without the rest."""
    if name in _MODULES:
        return getattr(import_module(f"ltdi.inference.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'ltdi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
