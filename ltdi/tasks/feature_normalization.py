"""What is done to a body's features before anything else sees them: a fixed map, fitted on meta-training features."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NORMALISATIONS = ("none", "unit", "centred")


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features (…, F) as they are ("none"), at unit length, or at unit length around the training mean ("centred");
    then their first principal components (…, P), again at unit length, where there is a ``projection`` (F, P).

    Of unit length they are multiplied by √P, so that a number is about 1 in size, as it is without.
    """

    normalise: str
    mean: Tensor
    projection: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        if self.normalise == "centred":
            features = features - self.mean
        if self.projection is None:
            return features if self.normalise == "none" else _unit(features)
        features = features if self.normalise == "none" else F.normalize(features, dim=-1)
        return features @ self.projection if self.normalise == "none" else _unit(features @ self.projection)

    @property
    def width(self) -> int:
        return self.mean.shape[0] if self.projection is None else self.projection.shape[1]

    def floor(self, features: Tensor) -> float:
        """A number that nothing of such features is below: theirs, where nothing bounds them."""
        if self.normalise != "none":
            return -(self.width**0.5)
        return min(0.0, self(features).min().item())

    def to(self, device: torch.device | str) -> "FeatureMap":
        projection = None if self.projection is None else self.projection.to(device)
        return FeatureMap(self.normalise, self.mean.to(device), projection)

    @classmethod
    def fit(cls, features: Tensor, *, normalise: str, projection: int | None) -> "FeatureMap":
        """On meta-training features (R, F)."""
        mean = features.mean(0)
        if projection is None:
            return cls(normalise, mean)
        seen = cls(normalise, mean)(features).double()
        # directions of the second moment, not of the covariance: where features are not centred, nor are their
        # components
        directions = torch.linalg.eigh(seen.mT @ seen / len(seen)).eigenvectors.flip(-1)[:, :projection]
        # laid out as it is read back from a file: products of another layout differ in their last digits
        return cls(normalise, mean, directions.to(features).contiguous())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"features/mean": self.mean}
        return tensors | ({} if self.projection is None else {"features/projection": self.projection}), {
            "normalise": self.normalise
        }

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], values: dict[str, Any]) -> "FeatureMap":
        return cls(values["normalise"], tensors["features/mean"], tensors.get("features/projection"))


def _unit(features: Tensor) -> Tensor:
    return features.shape[-1] ** 0.5 * F.normalize(features, dim=-1)
