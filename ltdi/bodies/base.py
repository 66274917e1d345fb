"""What every feature extractor says of itself."""

from typing import Any, ClassVar

from torch import nn


class Body(nn.Module):
    """Images (M, channels, height, width) in [0, 1] -> features (M, F)."""

    precision: ClassVar[str] = "float32"
    """The number format that it computes features in: "float32", "bfloat16", or "auto" (``devices.precision``)."""

    images_a_pass: int = 16
    """Images that go through it at once on a thread of a processor: fewer are too little work for a layer, and of more
    its outputs leave the cache. Conv4's best is 8 to 64 at 28 pixels a side, and 4 to 16 at 84, as ResNet-12's."""

    width: int
    """F"""

    image_size: int | None = None
    """Pixels a side that it wants images to have; None where any will do."""

    def facts(self) -> dict[str, Any]:
        """What it is built from but for its weights."""
        raise NotImplementedError
