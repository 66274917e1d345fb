"""Looks: photographs as another kind of picture would show them, which makes further domains of the same classes.

What is learned from photographs alone fits photographs; a user's pictures may be small, or drawings.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
"""Pixels a side that ``small`` leaves."""
_GREY = (0.299, 0.587, 0.114)
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def small(images: Tensor) -> Tensor:
    """Of ``SIDE`` pixels a side, enlarged again."""
    side = min(SIDE, images.shape[-1])
    less = F.interpolate(images, size=(side, side), mode="area")
    return F.interpolate(less, size=images.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)


def drawn(images: Tensor) -> Tensor:
    """Their edges, dark on white: the size of the gradient (Sobel) of the smoothed grey picture, where 1 is the size
    that 3 % of its pixels exceed."""
    weights = images.new_tensor(_GREY if images.shape[1] == 3 else [1 / images.shape[1]] * images.shape[1])
    grey = (images * weights[:, None, None]).sum(1, keepdim=True)
    binomial, sobel = images.new_tensor(_BINOMIAL), images.new_tensor(_SOBEL)
    smooth = F.conv2d(F.pad(grey, (2, 2, 2, 2), mode="reflect"), (binomial[:, None] * binomial)[None, None])
    smooth = F.pad(smooth, (1, 1, 1, 1), mode="reflect")
    across, down = (F.conv2d(smooth, kernel[None, None]) for kernel in (sobel, sobel.T))
    size = (across.square() + down.square()).sqrt()
    most = size.flatten(1).quantile(0.97, dim=1)[:, None, None, None].clamp_min(1e-3)
    return (1 - (size / most).clamp(0, 1) ** 0.8).expand_as(images)


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {"small": small, "drawn": drawn}
"""Images (R, channels, height, width) in [0, 1] to as many of the same size, by name."""


def seen_as(image: Tensor, look: str) -> Tensor:
    """An image uint8 (channels, height, width) under a look, or as it is under none."""
    return (LOOKS[look](image[None].float().div(255))[0] * 255).round().to(torch.uint8) if look else image.clone()
