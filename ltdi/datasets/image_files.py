"""Image files: found in folders and zips, read as a person sees them, all at once or when they are asked for."""

import io
import os
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ltdi.datasets.styles import bytes_in_memory, in_memory, seen_as, upright
from ltdi.store import digest
from ltdi.utils.errors import InputError
from ltdi.utils.plain_files import UNPACKING, cannot_unpack

# fmt: off
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif",
    ".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".ico", ".pcx",
)
UNREAD = (
    ".heic", ".heif", ".jxl", ".jxr", ".hdr", ".exr", ".svg", ".psd", ".xcf", ".eps", ".pdf", ".raw", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)
"""Of images and pictures that nothing here opens."""
# fmt: on
ImageFile = Path | zipfile.Path
Picture = ImageFile | Image.Image | np.ndarray | Tensor | bytes | BinaryIO

MOST_BYTES, MOST_PIXELS = 2**28, 100_000_000
"""Of one image, as a file and opened: what is larger is no picture but a mistake, or meant to fill the memory."""

Symmetry = tuple[bool, int]
"""Of the square: whether mirrored, and by how many quarter turns."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images that are read when they are asked for, so that a data set need not fit into memory: as a tensor is, uint8
    (R, channels, size, size), but for all that is not ``[rows]``.

    ``pictures`` are files or images in memory; behind all of them under the first of ``symmetries`` stand all of them
    under the next. ``looks`` says how each picture is seen (``seen_as``); empty: as it is.
    """

    pictures: tuple[Picture, ...]
    mode: str
    size: int
    symmetries: tuple[Symmetry, ...] = ((False, 0),)
    looks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures) * len(self.symmetries)

    def __add__(self, other: "Streamed") -> "Streamed":
        """Of two that are under no symmetry."""
        assert len(self.symmetries) == len(other.symmetries) == 1
        looks = sum((each.looks or ("",) * len(each.pictures) for each in (self, other)), ())
        return replace(self, pictures=self.pictures + other.pictures, looks=looks if any(looks) else ())

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        numbers = torch.arange(len(self))[rows].tolist()
        images = read_images([self.pictures[i % len(self.pictures)] for i in numbers], mode=self.mode, size=self.size)
        for image, i in zip(images, numbers):
            symmetry, i = divmod(i, len(self.pictures))
            seen = seen_as(image, self.looks[i]) if self.looks else image.clone()
            image.copy_(transform(seen, *self.symmetries[symmetry]))
        return images

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), len(self.mode), self.size, self.size

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def dim(self) -> int:
        return 4

    def seen_as(self, look: str) -> "Streamed":
        return replace(self, looks=(look,) * len(self.pictures))

    def under(self, symmetries: tuple[Symmetry, ...]) -> "Streamed":
        return replace(self, symmetries=symmetries)

    @cached_property
    def name(self) -> str:
        """Equal for equal pictures, read in the same way: of their bytes, not of their pixels."""
        contents = [sha256(_bytes(picture)).hexdigest() for picture in self.pictures]
        return digest(self.mode, self.size, self.symmetries, self.looks, contents)


def _bytes(picture: Picture) -> bytes:
    if isinstance(picture, Image.Image | np.ndarray | Tensor):
        return np.ascontiguousarray(picture).tobytes()
    return _content(picture)


def _content(file: ImageFile | bytes | BinaryIO) -> bytes:
    """The bytes of a file, or of one that is open, from its beginning, wherever it was read to.

    Raises:
        InputError: it is too large, or its zip cannot be unpacked.
    """
    if isinstance(file, Path):
        _check_regular(file)  # a pipe would be waited for
    if isinstance(file, Path | zipfile.Path):
        # a zip says how large a member is, and never gives more than it says
        size = file.stat().st_size if isinstance(file, Path) else file.root.getinfo(file.at).file_size
    else:
        content = bytes_in_memory(file, MOST_BYTES + 1)
        size = len(content)
    if size > MOST_BYTES:
        raise InputError(
            f"{_name(file)}: {size / 2**20:.0f} MB, and images of at most {MOST_BYTES // 2**20} are read; make it"
            " smaller"
        )
    if not isinstance(file, Path | zipfile.Path):
        return content
    try:
        return file.read_bytes()
    except UNPACKING as error:
        raise cannot_unpack(file, error) from error


def _name(picture: Picture, number: int | None = None) -> str:
    if isinstance(picture, Path | zipfile.Path):
        return str(picture)
    return "an image in memory" if number is None else f"number {number}"


def transform(images: Tensor, mirrored: bool, quarter_turns: int) -> Tensor:
    """``images`` (..., height, width) under one symmetry of the square."""
    if mirrored:
        images = images.flip(-1)
    return images.rot90(quarter_turns, dims=(-2, -1))


def find_images(folder: Path, *, strict: bool = True) -> dict[str, ImageFile]:
    """The image files of ``folder``, or of the zip of its name beside it, by path below the folder.

    Links to folders are followed; what a dot hides is left out. Both kinds of values have the same ``read_bytes``.
    Empty if there is neither folder nor zip. Not ``strict``: what is no file or of an unread kind is found, too.

    Raises:
        InputError: the zip is none, or an image is there twice, elsewhere, in a circle, no file, or of an unread kind.
    """
    found: dict[str, ImageFile] = {}
    if folder.is_dir():
        for place, folders, files in os.walk(folder, followlinks=True, onerror=_refused):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for link in (Path(place) / name for name in folders if os.path.islink(os.path.join(place, name))):
                if any(link.samefile(above) for above in _above(link, folder)):
                    raise InputError(f"{link}: a link to a folder that it lies in; move the link elsewhere")
            named = (Path(place) / name for name in folders if name.lower().endswith(SUFFIXES))
            if empty := [path for path in named if not any(path.iterdir())]:
                raise InputError(f"{empty[0]}: a folder named as an image, and empty; move it elsewhere")
            for path in (Path(place) / name for name in files if not name.startswith(".")):
                found[path.relative_to(folder).as_posix()] = path
                if strict and path.name.lower().endswith(SUFFIXES):
                    _check_regular(path)
    elif (file := folder.with_name(f"{folder.name}.zip")).is_file():
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # what is wrong in its directory makes zipfile raise half a dozen different types
            why = " ".join(str(error).split())
            raise InputError(f"{file} is no zip file or an incomplete one ({why}); get it again") from error
        # some zips hold the folder, some what is in it
        names, top = archive.namelist(), f"{folder.name}/"
        inside = any(name.startswith(top) for name in names)
        for name in names:
            hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in name.split("/"))
            if hidden or not name.lower().endswith((*SUFFIXES, *UNREAD)):
                continue
            place = name.removeprefix(top)
            strange = name.startswith("/") or "\\" in name or ".." in name.split("/") or (inside and place == name)
            if strange:
                raise InputError(f"{file}: {name} lies outside of {top}; pack the folder again")
            if place in found:
                raise InputError(f"{file}: two files are named {name}; pack the folder again")
            found[place] = zipfile.Path(archive, name)
    kinds = SUFFIXES if strict else (*SUFFIXES, *UNREAD)
    if strict and (unread := sorted(name for name in found if name.lower().endswith(UNREAD))):
        raise InputError(f"{folder / unread[0]}: images of this kind are not read; save it as PNG, and move this one")
    return {name: found[name] for name in sorted(found) if name.lower().endswith(kinds)}


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: a broken link or no regular file; move it, or put the image there")


def _refused(error: OSError) -> None:
    raise error


def _above(place: Path, folder: Path) -> list[Path]:
    """The folders that a place lies in, up to ``folder``."""
    return [each for each in place.parents if each == folder or folder in each.parents]


def read_images(pictures: Sequence[Picture], *, mode: str, size: int, first: int = 0) -> Tensor:
    """uint8 (len(pictures), channels, size, size) of files or of images in memory, which are named by numbers from
    ``first`` on; ``mode`` is PIL's: "L" one channel, "RGB" three.

    Raises:
        InputError: one cannot be read.
    """
    images = np.empty((len(pictures), size, size, len(mode)), np.uint8)
    for i, picture in enumerate(pictures):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is read all the same, and what is not is said here
                image = upright(_opened(picture)).convert(mode)
        except InputError:
            raise
        except Exception as error:  # a damaged file makes zlib, zipfile and PIL raise half a dozen different types
            heal = "get it again" if isinstance(picture, Path | zipfile.Path) else "give it again, or as a file"
            why = " ".join(str(error).split()) if isinstance(error, ValueError) else type(error).__name__
            raise InputError(f"cannot read the image {_name(picture, first + i)} ({why}); {heal}") from error
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)  # antialiased, unlike torch's default
        images[i] = np.asarray(image).reshape(size, size, len(mode))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _opened(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image | np.ndarray | Tensor):
        return in_memory(picture)
    content, most = io.BytesIO(_content(picture)), f"images of at most {MOST_PIXELS:,} are read; make it smaller"
    try:
        image = Image.open(content)
    except Image.DecompressionBombError as error:
        raise InputError(f"{_name(picture)}: too many pixels, and {most}") from error
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"{_name(picture)}: {image.width} × {image.height} pixels, and {most}")
    return image
