"""Batch: the tensors of B tasks by name, which weights are trained on and scored by."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Batch = Mapping[str, Tensor]
"""Tensors (B, …) of B tasks by name; the learner defines the names."""

ABSENT = -100
"""Label of a padding input, where classes have unequal numbers of images; cross-entropy ignores it."""


def map_batch(fn: Callable[[Tensor], Tensor], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply ``fn`` to every tensor of a batch, nested batches included."""
    return {name: map_batch(fn, value) if isinstance(value, Mapping) else fn(value) for name, value in batch.items()}


def batch_size(batch: Mapping[str, Any]) -> int:
    """Return B of a batch, which may be nested."""
    value = next(iter(batch.values()))
    return batch_size(value) if isinstance(value, Mapping) else len(value)
