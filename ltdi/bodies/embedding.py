"""Images to the features of a frozen body."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ltdi.devices import precision
from ltdi.seeding import generator


@torch.no_grad()
def embed(body: nn.Module, images: Tensor, *, batch: int = 1000) -> Tensor:
    """images (..., channels, height, width) uint8 or float in [0, 1] -> features (..., F) of the frozen body.

    In the number format that the body asks for (``precision``), float32 where it says nothing.
    """
    body.eval()
    device = next(body.parameters()).device
    number = precision(getattr(body, "precision", "float32"), device)
    features = []
    for part in images.flatten(0, -4).split(batch):
        part = part.to(device).float().div(255) if part.dtype == torch.uint8 else part.to(device)
        with torch.autocast(device.type, number, enabled=number != torch.float32):
            features.append(body(part.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(features).unflatten(0, images.shape[:-3])


def embed_views(
    body: nn.Module,
    images: Tensor,
    *,
    views: int,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    follow: Callable,
) -> Tensor:
    """Features of uint8 images (R, channels, height, width) and, behind them, of augmented copies by view (V·R, F)."""
    features = [embed(body, images)]
    for row in follow(({"view": view} for view in range(views)), name="augmented views", total=views, show="view"):
        stream = generator(0, "augmented view", row["view"])
        features.append(embed(body, augment(images.float().div(255), stream)))
    return torch.cat(features)
