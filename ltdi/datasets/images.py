"""A data set is images by class; what may be done to it before tasks are drawn from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.datasets.image_files import Streamed, transform
from ltdi.utils.errors import InputError

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

    ``images`` is uint8 (R, channels, height, width), in memory or read when they are asked for, ``names`` the classes'
    names, all different, ``counts`` how many images each has, ``domains`` what each class is a picture of, where the
    data set says so: a photograph, a sketch …
    """

    images: Tensor | Streamed
    names: tuple[str, ...]
    counts: tuple[int, ...]
    domains: tuple[str, ...] | None = None

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

    @property
    def content(self) -> Tensor | str:
        """What a name of the images is made of (``store.digest``)."""
        return self.images if isinstance(self.images, Tensor) else self.images.name

    def pixels(self, rows: Tensor) -> Tensor:
        """The images of these numbers (…,): uint8 (…, channels, height, width)."""
        return self.images[rows.flatten()].unflatten(0, rows.shape)


def expand_classes(image_set: ImageSet, transforms: str) -> ImageSet:
    """Every class under every symmetry of ``TRANSFORMS[transforms]``, each a class of its own.

    Symmetry by symmetry, the order of the classes kept within each: of C classes, class i under
    symmetry j is class j * C + i, named e.g. ``alpha/r90``; an unchanged class keeps its name.
    """
    if transforms not in TRANSFORMS:
        raise InputError(f"unknown class transforms {transforms!r}; allowed: {', '.join(TRANSFORMS)}")
    symmetries = TRANSFORMS[transforms]
    images: Tensor | Streamed
    if isinstance(image_set.images, Streamed):
        images = image_set.images.under(symmetries)
    else:
        images = torch.cat([transform(image_set.images, *symmetry) for symmetry in symmetries])
    names = tuple(name + _suffix(*s) for s in symmetries for name in image_set.names)
    domains = image_set.domains and image_set.domains * len(symmetries)
    return ImageSet(images, names, image_set.counts * len(symmetries), domains)


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
    images: Tensor | Streamed
    if isinstance(a.images, Streamed) and isinstance(b.images, Streamed):
        images = a.images + b.images
    else:
        images = torch.cat([each.images[:] for each in (a, b)])
    domains = a.domains + b.domains if a.domains and b.domains else None
    return ImageSet(images, a.names + b.names, a.counts + b.counts, domains)


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


KEPT_BYTES = 2**30
"""Streamed images of more are not kept with the tasks: methods that work on images are refused then."""


def kept_pixels(splits: Mapping[str, ImageSet]) -> dict[str, Tensor]:
    """The pixels of all splits (R, channels, height, width), or of none where streamed ones are too many."""
    streamed = [each.images for each in splits.values() if isinstance(each.images, Streamed)]
    if sum(math.prod(each.shape) for each in streamed) > KEPT_BYTES:
        return {}
    return {split: each.images[:] for split, each in splits.items()}
