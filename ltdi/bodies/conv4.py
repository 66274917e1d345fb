"""Conv4: four blocks of convolution, batch norm, ReLU and pooling (Vinyals et al. 2016; the paper's body)."""

from typing import Any

from torch import Tensor, nn

from ltdi.bodies.base import Body


class Conv4(Body):
    """Images (M, channels, height, width) in [0, 1] -> non-negative features (M, F), F = filters.

    The features are non-negative because the last block ends in ReLU and pooling; the head's
    closed-form starts rely on it. Images of 28 x 28 are pooled to a single place; of larger ones the
    places' mean is taken, so that the head stays as small.
    """

    def __init__(self, channels: int, filters: int = 64) -> None:
        super().__init__()
        self.channels, self.width = channels, filters
        widths = [channels] + [filters] * 4
        self.blocks = nn.Sequential(*(_block(a, b) for a, b in zip(widths, widths[1:])))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images).mean((2, 3))

    def facts(self) -> dict[str, Any]:
        return {"name": "conv4", "channels": self.channels, "filters": self.width}


def _block(channels: int, filters: int) -> nn.Sequential:
    # max commutes with the monotone ReLU, so pooling first gives the same values for a quarter of the work
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )
