"""Lt-Di: the weights of a network's head, generated for a task instead of trained.

Shapes, in every docstring:
    B tasks in a batch    N n_way     K n_shot    Q n_query a class
    F features            C numbers of a row      D generated weights     P recorded trajectory points
    H hidden units of the head

Imports go down only: floor 0 is ``errors store seeding nn training metrics weights devices console ranks memory``,
floor 1 ``learner datasets features provenance diffusion encoder likeness schemas lineage``,
floor 2 ``bodies tasks texts text_pairs text_examples learners adaptation sharpness``,
floor 3 ``classes text_tasks extractor starts selection reptile peft_format transductive outputs named``,
floor 4 ``trajectories domains described pictures``, floor 5 ``head methods prepared streaming pooled scenarios``,
floor 6 ``artefacts program joined transductive_baselines told``, floor 7 ``run adapter audit example``,
floor 8 ``comparison answering``, floor 9 ``cli``, floor 10 ``__main__``;
``pipeline`` stands above all of them.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """``ltdi.load`` and ``ltdi.Run``, imported when they are asked for: stages do without."""
    if name in ("load", "Run"):
        return getattr(import_module("ltdi.inference.run"), name)
    raise AttributeError(f"module 'ltdi' has no attribute {name!r}")
