"""Pairs of texts that nobody has labelled, and how alike the frozen encoder finds the two of them apart.

A model that reads two texts together does not know that, because it never saw them apart. It learns it from itself,
before anything of a task is known (Liu et al. 2022, "Trans-Encoder: Unsupervised sentence-pair modelling through self-
and mutual-distillations", the step from two encoders to one).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ltdi.tasks.batch import Batch

NEAREST, ANCHORS_TOGETHER = 8, 2048
SURENESS = 3.0
"""The logit of a pair whose likeness is one standard deviation above the mean of all."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """R pairs: ``hidden`` (R, L, H) and ``mask`` (R, L), what the lowest adapted layer is given of both together, and
    ``likeness`` (R,), the cosine of their embeddings apart."""

    hidden: Tensor
    mask: Tensor
    likeness: Tensor

    def __len__(self) -> int:
        return len(self.likeness)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Pairs | None":
        """Those that ``tensors`` gave, if any."""
        if "pairs/likeness" not in tensors:
            return None
        return cls(**{each.name: tensors[f"pairs/{each.name}"] for each in fields(cls)})

    def tensors(self) -> dict[str, Tensor]:
        return {f"pairs/{each.name}": getattr(self, each.name) for each in fields(self)}

    def to(self, device: torch.device | str) -> "Pairs":
        return replace(self, **{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    def batch(self, rows: Tensor) -> Batch:
        """Of rows (B, M) a learner's inputs, and the ``shares`` (B, M, 2) of the classes "other" and "alike". Cosines
        of one encoder are not those of another: what counts is how far from the mean of all pairs they are."""
        places = (self.likeness - self.likeness.mean()) / self.likeness.std().clamp_min(1e-6)
        alike = (SURENESS * places).sigmoid()[rows]
        return {"hidden": self.hidden[rows], "mask": self.mask[rows], "shares": torch.stack([1 - alike, alike], -1)}


def some_pairs(unit: Tensor, sets: Tensor, given: Tensor, n: int, stream: torch.Generator) -> Tensor:
    """Two numbers each of texts with embeddings of unit length (M, E), each of one of several ``sets`` (M,), for n
    pairs: (n, 2).

    Of five, two are of those that are ``given`` (G, 2), as long as there are any; two are a text and one of its
    ``NEAREST``, so that what is alike is not always the same thing; and one is any two. Half of the near ones are of
    another set than the text, where there are several: a question beside a sentence, as new data may have them.
    """
    first = given[torch.randperm(len(given), generator=stream)[: 2 * n // 5]]
    any_two = torch.randint(len(unit), (n // 5, 2), generator=stream)
    anchors = torch.randint(len(unit), (n - len(first) - len(any_two),), generator=stream)
    others, everyone = len(unit) - int(sets.bincount().max()), torch.arange(len(unit))
    apart = len(anchors) // 2 if others else 0
    near = [_near(unit, anchors[apart:], everyone, stream)]
    if apart:
        near.insert(0, _near(unit, anchors[:apart], sets, stream))
    return torch.cat([first, *near, any_two])


def _near(unit: Tensor, anchors: Tensor, sets: Tensor, stream: torch.Generator) -> Tensor:
    """Each of the anchors (A,) with one, drawn, of the ``NEAREST`` to it among the texts of other sets: (A, 2)."""
    n = min(NEAREST, len(unit) - int(sets.bincount().max()))
    chosen, of, second = torch.randint(n, (len(anchors), 1), generator=stream), sets.to(unit.device), []
    for some, which in zip(anchors.split(ANCHORS_TOGETHER), chosen.split(ANCHORS_TOGETHER), strict=True):
        there = some.to(unit.device)
        likeness = (unit[there] @ unit.mT).masked_fill_(of[there, None] == of, -torch.inf)
        second.append(likeness.topk(n).indices.cpu().gather(1, which)[:, 0])
    return torch.stack([anchors, torch.cat(second)], 1)
