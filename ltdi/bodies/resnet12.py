"""ResNet-12: four residual blocks of three convolutions, the usual body of few-shot learning (Oreshkin et al. 2018;
Lee et al. 2019)."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.bodies.base import Body

WIDTHS = (1, 2, 4, 8)
"""Of the blocks, in units of the first one's."""


class ResNet12(Body):
    """Images (M, channels, height, width) in [0, 1] -> non-negative features (M, F), F = the last of ``widths``; the
    places' mean."""

    def __init__(self, channels: int, widths: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.channels, self.widths, self.width = channels, tuple(widths), widths[-1]
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in zip([channels, *widths], widths)))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images).mean((2, 3))

    def facts(self) -> dict[str, Any]:
        return {"name": "resnet12", "channels": self.channels, "widths": list(self.widths)}


class _Block(nn.Module):
    """Three convolutions beside a projection, pooled to half the side."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (channels, width, width):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        # ReLU where the published form has its leaky one: the last block's features are then non-negative, as Conv4's
        return F.max_pool2d(F.relu(self.layers(images) + self.shortcut(images)), 2)
