"""A head with its backbone as one torch module: images in, logits out."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.datasets import DATASETS
from ltdi.learners.base import Learner
from ltdi.tasks.feature_normalization import FeatureMap


class HeadModule(nn.Module):
    """Images (M, channels, height, width), uint8 from 0 to 255 or floats from 0 to 1, as a file shows them -> logits
    (M, N) of a head's classes. Images of another size than the backbone's are resized.

    Args:
        learner: what ``w`` are the weights of.
        w: (1, D)
        extractor: the features that the head was generated for.
        temperature: that logits are divided by.
    """

    mean: Tensor
    projection: Tensor | None

    def __init__(self, learner: Learner, w: Tensor, extractor: FeatureExtractor, temperature: float = 1.0) -> None:
        super().__init__()
        self.body = deepcopy(extractor.body).cpu().eval()
        for tensor in (*self.body.parameters(), *self.body.buffers()):
            # what is mapped from one file shares memory, which torch's archive has no place for
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        self.scale, self.learner, self.temperature = extractor.scale, learner, temperature
        self.size, self.on_paper = extractor.size, DATASETS[extractor.data_set].on_paper
        seen = extractor.seen
        self.normalise = None if seen is None else seen.normalise
        self.register_buffer("mean", None if seen is None else seen.mean.cpu().clone())
        self.register_buffer(
            "projection", None if seen is None or seen.projection is None else seen.projection.cpu().clone()
        )
        self.register_buffer("w", w.detach().cpu().clone())

    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        features = self.body(1 - images if self.on_paper else images) / self.scale
        if self.normalise is not None:
            features = FeatureMap(self.normalise, self.mean, self.projection)(features)
        logits = self.learner.logits(self.w, features[None])[0]  # type: ignore[attr-defined]
        return logits if self.temperature == 1 else logits / self.temperature
