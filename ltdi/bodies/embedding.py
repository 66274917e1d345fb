"""Images to the features of a frozen body."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.bodies.base import Body
from ltdi.datasets.image_files import Streamed
from ltdi.utils import distributed
from ltdi.utils.devices import precision, side_by_side
from ltdi.utils.memory import check_fits
from ltdi.utils.seeding import generator

LARGE = 64
"""Images in memory at once for a body that has a size for them: those are large."""


def _quietly(rows: Iterable, **shown: Any) -> Iterable:
    return rows


@torch.no_grad()
def embed(
    body: nn.Module, images: Tensor | Streamed, *, batch: int = 1000, follow: Callable = _quietly, name: str = "embed"
) -> Tensor:
    """images (..., channels, height, width) uint8 or float in [0, 1] -> features (..., F) of the frozen body, in the
    processor's memory; of several processes (``ranks``) each takes some of the batches.

    In the number format that the body asks for (``precision``), float32 where it says nothing. No more than ``batch``
    images are in memory at once, of those that are streamed; ``follow(rows, …)`` shows how far it has come.
    """
    if distributed.size() == 1:
        parts = [part.cpu() for part in embedded(body, images, batch=batch, follow=follow, name=name)]
        return torch.cat(parts).unflatten(0, images.shape[:-3])
    flat = images if isinstance(images, Streamed) else images.flatten(0, -4)
    batch = in_memory(body, batch)

    def work(first: int) -> Tensor:
        return embed_there(body, torch.as_tensor(flat[first : first + batch]), batch=batch).cpu()

    parts = list(distributed.together(range(0, len(flat), batch), work))
    return torch.cat(parts).unflatten(0, images.shape[:-3])


def in_memory(body: nn.Module, batch: int) -> int:
    """How many images are in memory at once: of large ones whole passes, one for each thread at least."""
    if not getattr(body, "image_size", None):
        return batch
    images = _images_a_pass(body)
    return min(batch, images * max(LARGE // images, torch.get_num_threads()))


def _images_a_pass(body: nn.Module) -> int:
    return getattr(body, "images_a_pass", Body.images_a_pass)


@torch.no_grad()
def embedded(
    body: nn.Module, images: Tensor | Streamed, *, batch: int = 1000, follow: Callable = _quietly, name: str = "embed"
) -> Iterator[Tensor]:
    """The same as parts (M, F) on the body's device."""
    device, work = _ready(body)
    batch = in_memory(body, batch)
    together = _images_a_pass(body) if device.type == "cpu" else batch
    flat = images if isinstance(images, Streamed) else images.flatten(0, -4)
    starts = [{"image": first} for first in range(0, len(flat), batch)]
    for row in follow(starts, name=name, total=len(starts), show="image"):
        part = flat[row["image"] : row["image"] + batch].to(device)
        yield torch.cat(side_by_side(work, part.split(together))) if len(part) > together else work(part)


def _ready(body: nn.Module) -> tuple[torch.device, Callable[[Tensor], Tensor]]:
    """Where the body is, and what it makes of images there."""
    if body.training:  # asked first, because to set it visits every part: a tenth of the time of a single image
        body.eval()
    device = next(body.parameters()).device
    return device, partial(_through, body, precision(getattr(body, "precision", "float32"), device))


# a thread begins with gradients of its own
@torch.no_grad()
def _through(body: nn.Module, number: torch.dtype, images: Tensor) -> Tensor:
    """Of images (M, channels, height, width), uint8 or float in [0, 1], the features (M, F)."""
    images = images.float().div(255) if images.dtype == torch.uint8 else images
    with nullcontext() if number == torch.float32 else torch.autocast(images.device.type, number):
        return body(images.contiguous(memory_format=torch.channels_last)).float()


def embed_there(body: nn.Module, images: Tensor, *, batch: int = 1000) -> Tensor:
    """``embed``, the features (..., F) on the body's device."""
    # at once: one is asked about more often than many
    if images.dim() == 4 and len(images) <= min(batch, _images_a_pass(body)):
        device, work = _ready(body)
        return work(images.to(device))
    first, *more = embedded(body, images, batch=batch)
    return (torch.cat([first, *more]) if more else first).unflatten(0, images.shape[:-3])


def embed_views(
    body: nn.Module,
    images: Tensor | Streamed,
    *,
    views: int,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    follow: Callable,
) -> Tensor:
    """Features of uint8 images (R, channels, height, width) and, behind them, of augmented copies by view (V·R, F).

    Raises:
        InputError: they would not fit into memory.
    """
    features = [embed(body, images)]
    check_fits(features[0].numel() * (views + 1), f"features of {views} augmented copies", "lower tasks.views")
    for row in follow(({"view": view} for view in range(views)), name="augmented views", total=views, show="view"):
        stream = generator(0, "augmented view", row["view"])
        at_once = LARGE if isinstance(images, Streamed) else len(images)
        for first in range(0, len(images), at_once):
            part = images[first : first + at_once].float().div(255)
            features.append(embed(body, augment(part, stream)))
    return torch.cat(features)
