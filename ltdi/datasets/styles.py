"""How pictures look: what the axes and the numbers of an image in memory mean; and photographs as another kind of
picture would show them, which makes further domains of the same classes.

Of one image in memory the axes are (H, W), (H, W, channels) or (channels, H, W); channels are 1, 3 or 4, the last one
how much covers, and behind the sides also 2, grey and that. From black to white numbers are: integers 0 to 255, uint16
0 to 65535, floats 0 to 1. What fits no reading, or two, is refused: a guess would be an image that nobody has given.

What is learned from photographs alone fits photographs; a user's pictures may be small, or drawings.
"""

from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ltdi.utils.errors import InputError

# -- in memory ---------------------------------------------------------------------------------------

FIRST, LAST = (1, 3, 4), (1, 2, 3, 4)
"""How many channels there may be before the sides, and behind them."""
WHITE = {"b": 1, "u": 255, "i": 255, "f": 1}
"""By the kind of a type."""
SLACK = 1e-3
"""By how much a share of white may miss 0 or 1: what sums and resizing leave."""
RULE = (
    "an image is (H, W), (H, W, channels) or (channels, H, W), and several are a list of these or one axis more; its"
    " numbers are integers from 0 to 255, uint16 from 0 to 65535, floats from 0 to 1, or bool"
)


def in_memory(picture: Image.Image | np.ndarray | Tensor) -> Image.Image:
    """One image that PIL, an array or a tensor holds; of an array in 8 bits.

    Raises:
        ValueError: its axes or its numbers mean nothing, or two things.
    """
    if isinstance(picture, Image.Image):
        # of a file that was opened, its format says what white is
        if picture.format is None and (picture.mode == "I" or picture.mode.startswith("I;16")):
            _check_depth(np.asarray(picture))
        return picture
    array = _array(picture)
    if _is_first(array.shape):
        array = np.moveaxis(array, 0, -1)
    grey = array.ndim == 3 and array.shape[2] == 1
    return Image.fromarray(np.ascontiguousarray(_shades(array[..., 0] if grey else array)))


def upright(image: Image.Image) -> Image.Image:
    """As a viewer shows it: turned as its EXIF says, on white where it is transparent, of 8 bits a channel."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _of_8_bits(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _of_8_bits(image: Image.Image) -> Image.Image:
    """PIL's image of one channel of floats, which are shares of white, or of integers of 16 bits.

    Raises:
        ValueError: a number is outside.
    """
    values = np.asarray(image)
    grey = _shades(values, 1 if image.mode == "F" else 65535)
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def bytes_in_memory(file: bytes | BinaryIO, most: int) -> bytes:
    """The bytes of a file in memory or one that is open, of this from its beginning, wherever it was read to; so many
    at ``most``.

    Raises:
        ValueError: it is none.
    """
    content: object = file
    if not isinstance(file, bytes | bytearray | memoryview) and hasattr(file, "read"):
        file.seek(0)
        content = file.read(most)
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ValueError(
            f"of type {type(file).__name__}; give a path, bytes, a file open in binary, an array or a tensor"
        )
    return bytes(content)


def _shades(values: np.ndarray, white: float | None = None) -> np.ndarray:
    """Numbers as 8 bits, of a type whose ``white`` is said, or is that of its kind.

    Raises:
        ValueError: some are outside, or of 16 bits and so dark that they may be meant as 8.
    """
    if values.dtype == np.uint8:
        return values
    of = str(values.dtype)
    if white is None:
        if values.dtype.kind not in WHITE:
            raise ValueError(f"numbers of type {of}; {RULE}")
        white = 65535 if values.dtype == np.uint16 else WHITE[values.dtype.kind]
        if white == 65535:
            _check_depth(values)
    slack = SLACK if values.dtype.kind == "f" else 0
    low, high = values.min(), values.max()
    if not (low >= -slack and high <= white + slack):  # nor where one is no number
        raise ValueError(f"{of} numbers from {low:g} to {high:g}, not from 0 to {white:g}; scale them, or give uint8")
    return (values.astype(np.float64) * 255 / white).round().clip(0, 255).astype(np.uint8)


def _check_depth(values: np.ndarray) -> None:
    """
    Raises:
        ValueError: of 16 bits, they hold no more than 8, so that white may be 255 or 65535.
    """
    if 0 < values.max() <= 255:
        raise ValueError(
            f"numbers of 16 bits or more up to {values.max()}, where white may be 255 or 65535; give uint8 for the one,"
            " floats from 0 to 1 for the other"
        )


def each_of(values: np.ndarray | Tensor) -> Sequence[np.ndarray]:
    """The images of an array or a tensor: one, or of an axis more several; (M, H, W) are grey ones.

    Raises:
        InputError: it may be either, or is neither.
    """
    try:
        array = _array(values)
        if array.ndim == 4:
            if len(array):
                _is_first(array.shape[1:])
            return list(array)
        if array.ndim != 3 or (array.shape[0] == 1 or array.shape[2] in LAST):
            _is_first(array.shape)
            return [array]
        if array.shape[0] in FIRST:
            n = array.shape[0]
            raise ValueError(
                f"of {array.shape} may be one image of {n} channels or {n} grey ones; put it into a list for the one,"
                f" make it ({n}, 1, {array.shape[1]}, {array.shape[2]}) for the other"
            )
        return list(array)
    except ValueError as error:
        raise InputError(f"an array or a tensor {error}") from error


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    if not isinstance(values, Tensor):
        return values
    try:
        here = values.detach().cpu()
        return (here.float() if here.dtype == torch.bfloat16 else here).numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"of {values.dtype}, {values.layout}, whose numbers cannot be read; {RULE}") from error


def _is_first(shape: tuple[int, ...]) -> bool:
    """Whether the channels of one image stand before its sides.

    Raises:
        ValueError: it is not of one image, or of one in two ways.
    """
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"of {shape} is no image; {RULE}")
    if len(shape) == 2:
        return False
    first, last = shape[0] in FIRST, shape[2] in LAST
    if not first and not last:
        raise ValueError(f"of {shape} is no image; {RULE}")
    if first and last:
        raise ValueError(f"of {shape} has channels before or behind its sides; give it with (H, W) alone, or as a file")
    return first


# -- other kinds of pictures --------------------------------------------------------------------------

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
