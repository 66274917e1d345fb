"""A data set is images by class; what may be done to it before tasks are drawn from it."""

import io
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ltdi.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ImageFile = Path | zipfile.Path

SPLITS = ("meta_train", "meta_val", "meta_test")

# A symmetry of the square is (mirrored, quarter turns): the left-right mirror image first, if any,
# then so many turns of 90 degrees against the clock.
_ROTATIONS = tuple((False, turns) for turns in range(4))
_MIRRORED = tuple((True, turns) for turns in range(4))

TRANSFORMS: dict[str, tuple[tuple[bool, int], ...]] = {
    "none": _ROTATIONS[:1],
    "rotations": _ROTATIONS,
    "mirrored": _MIRRORED,
    "dihedral": _ROTATIONS + _MIRRORED,
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by class: those of the first class, then those of the second, and so on.

    ``images`` is uint8 (R, channels, height, width), ``names`` the classes' names, all different, ``counts`` how many
    images each has.
    """

    images: Tensor
    names: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8, self.images.dtype
        assert self.images.dim() == 4, self.images.shape
        assert len(self.names) == len(self.counts), (len(self.names), len(self.counts))
        assert sum(self.counts) == len(self.images), (sum(self.counts), len(self.images))
        if len(set(self.names)) < len(self.names):
            twice = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            raise InputError(f"class {twice!r} is there twice; the classes of a set must have different names")
        for name, count in zip(self.names, self.counts):
            if count < 2:
                raise InputError(
                    f"class {name!r} has {count} image; a class needs one to learn from and one to be asked"
                )

    @classmethod
    def of(cls, images: Tensor, names: tuple[str, ...]) -> "ImageSet":
        """Of equally many images a class (classes, images a class, channels, height, width)."""
        return cls(images.flatten(0, 1), names, (images.shape[1],) * len(images))

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where each class's images begin, and how many it has (C,)."""
        counts = torch.tensor(self.counts)
        return counts.cumsum(0) - counts, counts


def transform(images: Tensor, mirrored: bool, quarter_turns: int) -> Tensor:
    """``images`` (..., height, width) under one symmetry of the square."""
    if mirrored:
        images = images.flip(-1)
    return images.rot90(quarter_turns, dims=(-2, -1))


def expand_classes(image_set: ImageSet, transforms: str) -> ImageSet:
    """Every class under every symmetry of ``TRANSFORMS[transforms]``, each a class of its own.

    Symmetry by symmetry, the order of the classes kept within each: of C classes, class i under
    symmetry j is class j * C + i, named e.g. ``alpha/r90``; an unchanged class keeps its name.
    """
    if transforms not in TRANSFORMS:
        raise InputError(f"unknown class transforms {transforms!r}; allowed: {', '.join(TRANSFORMS)}")
    symmetries = TRANSFORMS[transforms]
    images = torch.cat([transform(image_set.images, *symmetry) for symmetry in symmetries])
    names = tuple(name + _suffix(*s) for s in symmetries for name in image_set.names)
    return ImageSet(images, names, image_set.counts * len(symmetries))


def _suffix(mirrored: bool, quarter_turns: int) -> str:
    if not mirrored and not quarter_turns:
        return ""
    return f"/{'m' if mirrored else 'r'}{90 * quarter_turns}"


def join(a: ImageSet, b: ImageSet) -> ImageSet:
    """The classes of ``a``, then those of ``b``."""
    if a.images.shape[1:] != b.images.shape[1:]:
        raise InputError(
            f"cannot join images of {tuple(a.images.shape[1:])} and of {tuple(b.images.shape[1:])} "
            "(channels, height, width); both sets must have the same"
        )
    return ImageSet(torch.cat([a.images, b.images]), a.names + b.names, a.counts + b.counts)


def to_float(images: Tensor) -> Tensor:
    """uint8 images of any shape as floats in [0, 1]."""
    return images.float() / 255


def augment(
    images: Tensor,
    *,
    generator: torch.Generator,
    max_rotation: float,
    max_shift: float,
    max_scale: float,
    max_shear: float,
) -> Tensor:
    """Float images (M, channels, height, width), each under its own small random affine map.

    Every quantity is uniform between minus and plus its maximum: the rotation in degrees, the shift
    in fractions of the image's side, the relative change of the size along each axis, and the shear.
    What comes in from outside the image is zero.
    """
    device = generator.device
    u = (2 * torch.rand(6, len(images), generator=generator, device=device) - 1).to(images)
    angle = math.radians(max_rotation) * u[0]
    scale_x, scale_y = 1 + max_scale * u[1], 1 + max_scale * u[2]
    shear = max_shear * u[3]
    shift_x, shift_y = 2 * max_shift * u[4], 2 * max_shift * u[5]  # the grid's side is 2 long
    cos, sin = angle.cos(), angle.sin()
    # rotation @ [[1, shear], [0, 1]] @ diag(scale)
    row_x = torch.stack([cos * scale_x, (cos * shear - sin) * scale_y, shift_x], -1)
    row_y = torch.stack([sin * scale_x, (sin * shear + cos) * scale_y, shift_y], -1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def find_images(folder: Path) -> dict[str, ImageFile]:
    """The image files of ``folder``, or of the zip of its name beside it, by path below the folder.

    Links to folders are followed; what a dot hides is left out. Both kinds of values have the same ``read_bytes``.
    Empty if there is neither folder nor zip.
    """
    found: dict[str, ImageFile] = {}
    if folder.is_dir():
        for place, folders, files in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (Path(place) / name for name in files if not name.startswith("."))
            found |= {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    elif (file := folder.with_suffix(".zip")).is_file():
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise InputError(f"{file} is no zip file or an incomplete one ({error}); get it again") from error
        top = folder.name + "/"
        for name in archive.namelist():
            if name.startswith(top):
                found[name.removeprefix(top)] = zipfile.Path(archive, name)
    return {name: found[name] for name in sorted(found) if name.lower().endswith(SUFFIXES)}


def read_images(pictures: Sequence[ImageFile | Image.Image | np.ndarray], *, mode: str, size: int) -> Tensor:
    """uint8 (len(pictures), channels, size, size) of files or of images in memory; ``mode`` is PIL's: "L" one channel,
    "RGB" three.

    Raises:
        InputError: one cannot be read.
    """
    images = np.empty((len(pictures), size, size, len(mode)), np.uint8)
    for i, picture in enumerate(pictures):
        try:
            image = _upright(_opened(picture)).convert(mode)
        except Exception as error:  # a damaged file makes zlib, zipfile and PIL raise half a dozen different types
            what = picture if isinstance(picture, Path | zipfile.Path) else f"number {i}"
            why = str(error) if isinstance(error, ValueError) else type(error).__name__
            raise InputError(f"cannot read the image {what} ({why}); get it again") from error
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)  # antialiased, unlike torch's default
        images[i] = np.asarray(image).reshape(size, size, len(mode))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _opened(picture: ImageFile | Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else Image.open(io.BytesIO(picture.read_bytes()))


def _upright(image: Image.Image) -> Image.Image:
    """As a viewer shows it: turned as its EXIF says, on white where it is transparent, of 8 bits a channel."""
    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        # floats are shares of white; integers of more than 8 bits are of 16
        most = 1.0 if image.mode == "F" else 65535.0
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > most:
            raise ValueError(f"numbers from {values.min():g} to {values.max():g}, not from 0 to {most:g}")
        return Image.fromarray((values * 255 / most).round().astype(np.uint8))
    return image
