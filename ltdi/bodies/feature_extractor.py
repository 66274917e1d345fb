"""From image files to rows of features as a run's tasks have them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ltdi.bodies.embedding import embed_there
from ltdi.datasets import DATASETS, Picture
from ltdi.store import digest, read_tensors
from ltdi.store.schemas import FEATURES
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.utils.devices import exact


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """The data set whose images the body knows and their side, the body, what features are divided by, and seen
    through."""

    data_set: str
    size: int
    body: nn.Module
    scale: float
    seen: FeatureMap | None
    device: torch.device | str

    @classmethod
    def of(
        cls, tasks: Path, body: nn.Module, seen: FeatureMap | None, device: torch.device | str
    ) -> "FeatureExtractor":
        """That of the prepared tasks in a folder."""
        facts = read_tensors(tasks / "features.safetensors", kind=FEATURES)[1]
        body = body.to(device).to(memory_format=torch.channels_last)
        return cls(facts["data_set"], facts["size"], body, facts["scale"], seen, device)

    def read(self, pictures: Sequence[Picture], first: int = 0) -> Tensor:
        """uint8 (M, channels, size, size) of images that are numbered from ``first`` on."""
        return DATASETS[self.data_set].read(pictures, self.size, first).to(self.device)

    def blank(self, shape: Sequence[int]) -> Tensor:
        """Images without anything on them, uint8 (*shape, channels, size, size)."""
        channels = len(DATASETS[self.data_set].mode)
        return torch.zeros(*shape, channels, self.size, self.size, dtype=torch.uint8, device=self.device)

    @exact()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images (…, channels, size, size) -> (…, F)"""
        features = embed_there(self.body, images) / self.scale
        return features if self.seen is None else self.seen(features)

    @cached_property
    def name(self) -> str:
        """Equal for equal features: weights fit no others."""
        seen = () if self.seen is None else self.seen.state()
        return digest(self.body.state_dict(), self.scale, *seen)
