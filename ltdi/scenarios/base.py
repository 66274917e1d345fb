"""Scenario: where tasks come from, which backbone is frozen, what is known of a task."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from ltdi.utils.trainer import Row


@dataclass(frozen=True, eq=False)
class Pretraining:
    """How the frozen part of a scenario is made.

    ``frozen`` is what is kept, with the ``facts`` to build it again. ``model`` is what is trained, by
    ``rows(training)``, which goes on from ``training.step`` and yields a log row a step; None where the frozen part is
    there already. ``optimizer`` are the arguments of ``Training``, ``inputs`` all that decides the result, ``code`` the
    modules that make it, ``scores`` measures it on meta-val.
    """

    frozen: nn.Module
    facts: Mapping[str, Any]
    scores: Callable[[], dict[str, float]]
    model: nn.Module | None = None
    rows: Callable[[Any], Iterator[Row]] | None = None
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    code: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """The tasks of all splits as they are kept: tensors with their facts by kind, a row a task, and one line of what
    they are."""

    tensors: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Any]]]
    table: pd.DataFrame
    line: str


class Scenario(Protocol):
    """Where tasks come from, which backbone is frozen, what is known of a task. Sections of params.yaml come as plain
    mappings."""

    source: ClassVar[str]
    """How its tasks are read back: a key of ``tasks.loading.SOURCES``."""

    provides: ClassVar[frozenset[str]]
    """What its tasks have that not all have: "classes", "names", "examples", "images" (``Method.needs``)."""

    data: ClassVar[str]
    """The section that says where its data are: "data" or "texts"."""

    learners: ClassVar[tuple[str, ...]]
    """What weights may be of."""

    def pretrain(
        self, data: Mapping[str, Any], body: Mapping[str, Any], *, seed: int, device: torch.device
    ) -> Pretraining:
        """What is frozen afterwards."""
        ...

    def prepare(
        self, frozen: nn.Module, data: Mapping[str, Any], tasks: Mapping[str, Any], *, seed: int, follow: Callable
    ) -> Prepared:
        """The tasks of the splits meta_train, meta_val and meta_test; ``follow(rows, …)`` shows how far it has come."""
        ...
