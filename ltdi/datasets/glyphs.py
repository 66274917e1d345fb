"""Glyphs: the characters of an invented script, drawn by a small program; the data set that needs no files.

A character is two to four strokes, and a stroke is a path whose heading is a quadratic function of the
length gone: constant for a straight line, linear for an arc, quadratic for an S; with a corner now and
then. A later stroke mostly starts on the one before it. An image is the character written once more:
every number about its strokes a little off, the whole slanted, stretched and moved, with another pen.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from ltdi.datasets.images import SPLITS, ImageSet
from ltdi.utils import seeding
from ltdi.utils.errors import InputError

SIZE = 28
SPLIT_SHARES = (0.60, 0.15, 0.25)  # of SPLITS
MIN_CLASSES = 40  # leaves 6 classes to meta-val
MAX_STROKES = 4
POINTS = 40  # a stroke
SIBLINGS = 3  # every third class is the class before it with one stroke replaced
CHUNK = 2000  # images drawn at once, which bounds the memory

# The numbers of a stroke, and how far each strays from one drawing to the next (standard deviation).
STRAY = {
    "length": 0.10,
    "heading": 0.13,
    "turn": 0.30,  # change of the heading over the whole stroke
    "bend": 0.30,  # change of the turn
    "corner": 0.20,  # sudden change of the heading ...
    "corner_at": 0.04,  # ... at this share of the length
    "start_at": 0.06,  # share of the stroke before at which this one starts ...
    "gap_x": 0.06,  # ... this far from it
    "gap_y": 0.06,
}


def load(
    root: Path | None = None, *, download: bool = False, n_classes: int = 500, n_images: int = 20, seed: int = 0
) -> dict[str, ImageSet]:
    """Every split as (classes · n_images, 1, 28, 28), ink 255 on 0; 60 / 15 / 25 % of the classes.

    ``root`` and ``download`` change nothing; they are there because every data set has them.
    """
    if n_classes < MIN_CLASSES or n_images < 2:
        raise InputError(
            f"glyphs: n_classes is {n_classes} and n_images {n_images}; allowed are {MIN_CLASSES} classes or more, "
            "of 2 images or more"
        )
    generator = seeding.generator(seed, "glyphs")
    drawings = _invent(n_classes, generator).repeat_interleave(n_images, 0)
    images = torch.cat([_draw(chunk, generator) for chunk in drawings.split(CHUNK)])
    images = images.reshape(n_classes, n_images, 1, SIZE, SIZE)
    names = tuple(f"glyph{i:04d}" for i in range(n_classes))

    ends = [round(n_classes * sum(SPLIT_SHARES[: i + 1])) for i in range(len(SPLITS))]
    return {
        split: ImageSet.of(images[start:end].clone(), names[start:end])
        for split, start, end in zip(SPLITS, [0, *ends], ends)
    }


def _invent(n_classes: int, generator: torch.Generator) -> Tensor:
    """Characters (n_classes, MAX_STROKES, numbers of ``STRAY``); a stroke that is not there is all zero."""
    shape = (n_classes, MAX_STROKES)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def normal(deviation: float) -> Tensor:
        return deviation * torch.randn(shape, generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    curved, apart = chance(0.6), chance(0.35)
    numbers = {
        "length": uniform(0.5, 1.6) * torch.where(curved, 1.4, 1.0),
        "heading": uniform(0, 4).floor() * math.pi / 2 + normal(0.3),
        "turn": curved * normal(2.2),
        "bend": curved * chance(0.4) * normal(3.0),
        "corner": chance(0.3) * normal(1.5),
        "corner_at": uniform(0.25, 0.75),
        "start_at": torch.where(chance(0.6), uniform(0, 3).floor() / 2, uniform(0, 1)),  # mostly an end or the middle
        "gap_x": apart * normal(0.4),
        "gap_y": apart * normal(0.4),
    }
    n_strokes = torch.randint(2, MAX_STROKES + 1, (n_classes, 1), generator=generator)
    present = torch.arange(MAX_STROKES) < n_strokes
    characters = torch.stack([numbers[name] for name in STRAY], -1) * present[..., None]

    is_sibling = torch.arange(n_classes) % SIBLINGS == SIBLINGS - 1
    replaced = torch.randint(2, (n_classes, 1), generator=generator)  # the first or second, which all classes have
    inherited = is_sibling[:, None] & (torch.arange(MAX_STROKES) != replaced)
    return torch.where(inherited[..., None], characters.roll(1, 0), characters)


def _draw(characters: Tensor, generator: torch.Generator) -> Tensor:
    """One image of each of the ``characters`` (M, strokes, numbers): uint8 (M, SIZE, SIZE)."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(len(characters), *shape, generator=generator)

    present = characters[..., :1] > 0
    stray = torch.tensor(list(STRAY.values())) * normal(*characters.shape[1:])
    points = _trace(characters + stray * present)

    low, high = points.amin((1, 2), keepdim=True), points.amax((1, 2), keepdim=True)
    sides = high - low
    # The longer side becomes 1, and the other side closer to it: characters fill a square as far as they can.
    points = (points - (low + high) / 2) / (sides * sides.amax(-1, keepdim=True)).sqrt()
    matrix = torch.eye(2) + normal(2, 2) * torch.tensor([[0.08, 0.08], [0.12, 0.08]])
    size = 18 * (0.12 * normal(1, 1)).exp()
    shift = SIZE / 2 + normal(1, 1, 2)
    points = (points.flatten(1, 2) @ matrix * size).view_as(points) + shift
    return _ink(points, 0.55 * (0.1 * normal(1, 1)).exp())


def _trace(drawings: Tensor) -> Tensor:
    """The points (M, strokes, POINTS, 2) along the strokes of ``drawings`` (M, strokes, numbers)."""
    length, heading, turn, bend, corner, corner_at, start_at, *gaps = drawings[..., None].unbind(-2)
    u = torch.linspace(-0.5, 0.5, POINTS)  # symmetric, so that ``heading`` is the mean one but for the corner
    angle = heading + turn * u + bend * (4 * u**2 - 1 / 3) + corner * (u + 0.5 > corner_at)
    steps = length / POINTS * torch.stack([angle.cos(), angle.sin()])
    paths = steps.cumsum(-1).movedim(0, -1)

    gap = torch.cat(gaps, -1)
    start_index = (start_at.clamp(0, 1) * (POINTS - 1)).round().long()
    strokes = [paths[:, 0]]
    for i in range(1, MAX_STROKES):
        start = strokes[-1].gather(1, start_index[:, i, :, None].expand(-1, -1, 2))
        strokes.append(start + gap[:, i, None] + paths[:, i])
    return torch.stack(strokes, 1)


def _ink(points: Tensor, pen: Tensor) -> Tensor:
    """What a Gaussian nib of width ``pen`` (M, 1, 1) pixels leaves along ``points`` (M, strokes, POINTS, 2), in pixels.

    A nib in two dimensions is the product of two in one, so that the sum over points is a matrix product.
    """
    travelled = points.diff(dim=2).norm(dim=-1).flatten(1, 2)[..., None]
    x, y = points[:, :, 1:].flatten(1, 2).split(1, -1)
    pixels = torch.arange(SIZE) + 0.5
    nib_x = (-((pixels - x) ** 2) / (2 * pen**2)).exp()
    nib_y = (-((pixels - y) ** 2) / (2 * pen**2)).exp()
    # A straight line leaves 1 along its middle, before the gain.
    ink = nib_y.mT @ (nib_x * travelled) / (math.sqrt(2 * math.pi) * pen)
    return (255 * (1.2 * ink).clamp(max=1)).round().byte()
