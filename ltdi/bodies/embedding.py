"""Images to the features of a frozen body."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def embed(body: nn.Module, images: Tensor, *, batch: int = 1000) -> Tensor:
    """images (..., channels, height, width) uint8 or float in [0, 1] -> features (..., F) of the frozen body."""
    body.eval()
    device = next(body.parameters()).device
    features = []
    for part in images.flatten(0, -4).split(batch):
        part = part.to(device).float().div(255) if part.dtype == torch.uint8 else part.to(device)
        features.append(body(part.contiguous(memory_format=torch.channels_last)).cpu())
    return torch.cat(features).unflatten(0, images.shape[:-3])
