"""Labelled texts as a frozen encoder reads them, and which of them are near one of them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from ltdi.store import digest
from ltdi.tasks.batch import ABSENT

N_CLASSES = 2
"""Tasks of texts have two labels."""


@dataclass(frozen=True, eq=False)
class Examples:
    """R labelled texts of a split: ``hidden`` (R, L, H) and ``mask`` (R, L), what the lowest adapted layer is given;
    ``embedding`` (R, C); ``label``, ``group``, the number of the data set, and ``dev``, whether it is of the part that
    the data set keeps apart: (R,)."""

    hidden: Tensor
    mask: Tensor
    embedding: Tensor
    label: Tensor
    group: Tensor
    dev: Tensor

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], split: str) -> "Examples":
        """Those of a split from what ``tensors`` gave of all."""
        return cls(**{each.name: tensors[f"{split}/{each.name}"] for each in fields(cls)})

    def tensors(self, split: str) -> dict[str, Tensor]:
        return {f"{split}/{each.name}": getattr(self, each.name) for each in fields(self)}

    def to(self, device: torch.device | str) -> "Examples":
        moved = Examples(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})
        # how many there are of each kind a device would have to be asked for
        vars(moved)["of_train"] = self.of_train
        vars(moved)["_rows"] = {kind: rows.to(device) for kind, rows in self._rows.items()}
        return moved

    @cached_property
    def name(self) -> str:
        return digest(self.tensors(""))

    @cached_property
    def unit(self) -> Tensor:
        """Embeddings of unit length (R, C)."""
        return torch.nn.functional.normalize(self.embedding, dim=-1)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """A learner's batch of rows (B, M), ``ABSENT`` where −1."""
        there = rows.clamp_min(0)
        labels = torch.where(rows >= 0, self.label[there], ABSENT)
        return {"hidden": self.hidden[there], "mask": self.mask[there], "labels": labels}

    def rows(self, group: int, label: int, *, dev: bool) -> Tensor:
        """The numbers of a data set's examples of a class, of one of its parts. How many these are is known without
        asking the device."""
        return self._rows[group, label, dev]

    @cached_property
    def groups(self) -> list[int]:
        """The numbers of the data sets."""
        return sorted({group for group, _, _ in self._rows})

    @cached_property
    def of_train(self) -> dict[int, Tensor]:
        """Of each data set the numbers of the examples of its train part, on the processor."""
        group, dev = self.group.cpu(), self.dev.cpu()
        return {of: ((group == of) & ~dev).nonzero().flatten() for of in self.groups}

    @cached_property
    def _rows(self) -> dict[tuple[int, int, bool], Tensor]:
        group, label, dev = (each.cpu() for each in (self.group, self.label, self.dev))
        kinds = itertools.product(group.unique().tolist(), range(N_CLASSES), (False, True))
        return {
            (of, which, kept): ((group == of) & (label == which) & (dev == kept)).nonzero().flatten().to(self.label)
            for of, which, kept in kinds
        }

    def near(self, group: int, anchor: int, share: float, dev: bool) -> list[Tensor]:
        """Of each class the rows of a data set that are nearest to the anchor, a ``share`` of them."""
        pools = []
        for label in range(N_CLASSES):
            rows = self.rows(group, label, dev=dev)
            if share < 1 and not dev:
                nearest = (self.unit[rows] @ self.unit[anchor]).topk(max(1, round(share * len(rows)))).indices
                rows = rows[nearest.sort().values]
            pools.append(rows)
        return pools
