"""The processes that share a stage, one or as many as torchrun starts: who does what, and how it comes together.

Alone, everything here does nothing. What is computed does not depend on how many there are.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ltdi.utils.errors import InputError

T = TypeVar("T")


def size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if size() > 1 else 0


def leads() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def _told(name: str, alone: int | None = None) -> int:
    """What torchrun says of this process.

    Raises:
        InputError: it is no number, or not said.
    """
    told = os.environ.get(name, "" if alone is None else str(alone))
    if not told.isdecimal() or (name == "WORLD_SIZE" and not int(told)):
        raise InputError(f"{name} = {told!r} is not what torchrun sets; unset WORLD_SIZE, or start by torchrun")
    return int(told)


@contextmanager
def joined() -> Iterator[None]:
    """With the others that torchrun started, if it did. One that dies ends all.

    Raises:
        InputError: what torchrun would have said is not there.
    """
    if _told("WORLD_SIZE", 1) == 1:
        yield
        return
    for name in ("RANK", "MASTER_PORT"):
        _told(name)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def mine(items: Iterable[T]) -> Iterator[T]:
    """This process's share: of as many processes as there are, each takes every so many-th."""
    return islice(items, rank(), None, size())


def wait() -> None:
    """Until all are here."""
    if size() > 1:
        dist.barrier()


def together(items: Sequence[T], work: Callable[[T], Tensor]) -> Iterator[Tensor]:
    """``work`` of each item, in their order, done by one process and given to all, as it is."""
    if size() == 1:
        yield from map(work, items)
        return
    for first in range(0, len(items), size()):
        round_of = items[first : first + size()]
        own = work(round_of[rank()]) if rank() < len(round_of) else torch.empty(0)
        yield from _given(own, len(round_of))


def _given(own: Tensor, n: int) -> Iterator[Tensor]:
    """Of the first ``n`` processes what each has, whose sizes are told first; numbers of one format."""
    sizes = [torch.zeros(8, dtype=torch.long, device=own.device) for _ in range(size())]
    shape = [own.dim(), *own.shape]
    dist.all_gather(sizes, torch.tensor(shape + [0] * (8 - len(shape)), device=own.device))
    for owner in range(n):
        dims, *lengths = sizes[owner].tolist()
        part = own.contiguous() if owner == rank() else own.new_empty(lengths[:dims])
        dist.broadcast(part, src=owner)
        yield part


def share(n: int) -> slice:
    """This process's of ``n`` tasks of a batch."""
    return slice(rank(), n, size())


def add_up(tensors: Iterable[Tensor]) -> None:
    """The sum over all processes of each, in its place."""
    if size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
