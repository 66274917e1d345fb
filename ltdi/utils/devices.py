"""The device, its number formats, and what makes two runs equal."""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ltdi.utils.errors import InputError


def device(name: str = "") -> torch.device:
    """The device of that ``name``, or of ``LTDI_DEVICE`` (cpu, cuda, cuda:1 …), or CUDA where there is one. No param:
    another machine is no other experiment.

    Raises:
        InputError: it is not usable here.
    """
    wanted = name or os.environ.get("LTDI_DEVICE", "auto")
    if wanted == "auto":
        # of several processes on a machine each has a GPU of its own
        own = os.environ.get("LOCAL_RANK")
        return torch.device(("cuda" if own is None else f"cuda:{own}") if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(wanted)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("nothing here was ever computed on one")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason, key = str(error).splitlines()[0], "device" if name else "LTDI_DEVICE"
        raise InputError(
            f"{key} = {wanted!r} is not usable here ({reason}); allowed: auto, cpu, cuda, cuda:<index>"
        ) from error
    return chosen


def precision(name: str, device: torch.device) -> torch.dtype:
    """The number format that a param names; "auto" is bfloat16 where the device computes in it.

    A processor without such instructions emulates them, twenty times slower than float32.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def give_back_memory() -> None:
    """Return to the system what is free, where its C library can (glibc).

    It keeps what lies below anything small that is still used, and asks for more where the next large tensor does not
    fit into the gaps: a loop over equally large parts grew by five megabytes a part.
    """
    if trim := getattr(ctypes.CDLL(None) if os.name == "posix" else None, "malloc_trim", None):
        trim(0)


def deterministic(*, training: bool = False) -> None:
    """The same machine gives the same bits.

    Where something is trained, a GPU's products may round their factors to ten bits (TF32). What is generated and
    answered is in float32: a task's head would differ by thousandths with the number of tasks beside it, and answers
    from those of the exported program.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms does the same, and imports the compiler, which takes seconds
    torch.set_deterministic_debug_mode("warn")
    # for debugging alone: every new tensor would be written once more, a twentieth of the time of collecting
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = training
    torch.backends.cudnn.allow_tf32 = training


@contextmanager
def exact() -> Iterator[None]:
    """``deterministic`` for as long as it lasts: for what a program of others calls, whose settings and random numbers
    are then as they were before."""
    variable = "CUBLAS_WORKSPACE_CONFIG"
    matmul, settings = torch.backends.cuda.matmul, torch.utils.deterministic
    cudnn: Any = torch.backends.cudnn
    kinds = (matmul, cudnn.conv, cudnn.rnn)
    # torch refuses to say allow_tf32 where a program has set these instead
    products, convolutions, recurrences = before = [kind.fp32_precision for kind in kinds]
    mode = torch.get_deterministic_debug_mode()
    filled = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get(variable)
    has_gpus = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if has_gpus else []):
            deterministic()
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        # both, so that each says the same as the other where it did
        matmul.allow_tf32, cudnn.allow_tf32 = products == "tf32", "tf32" in (convolutions, recurrences)
        for kind, was in zip(kinds, before, strict=True):
            kind.fp32_precision = was
        if workspace is None:
            os.environ.pop(variable, None)
        if not has_gpus and torch.cuda.is_available():
            # they were started meanwhile, or a seed is noted for when they are: that of the program's own
            torch.cuda.manual_seed_all(torch.initial_seed())


T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``work`` of each item, in their order, on as many threads as torch has, each of which computes alone.

    Threads that share an operation wait for each other at its end: of small ones that costs more than they save, and
    much more where anything else runs on the machine. What is computed does not depend on their number.
    """
    threads, items = torch.get_num_threads(), list(items)
    if threads == 1 or len(items) == 1:
        return list(map(work, items))
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        # what a thread sets for itself is also what threads started later begin with
        torch.set_num_threads(threads)
