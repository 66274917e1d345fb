"""What every stage shares: its command line, its device, and how it ends on bad input."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from ltdi.errors import InputError
from pipeline.progress import console, say

Params = Annotated[Path, typer.Option(help="The params file.")]
Folder = Annotated[Path, typer.Option(help="The folder that the stages read from and write to.")]


def run(main: Callable[..., None]) -> None:
    """Run a stage's ``main`` as a command; the user's mistakes are one line and exit code 2."""

    def guarded(params: Params = Path("params.yaml"), data: Folder = Path("data")) -> None:
        name = main.__module__ if main.__module__ != "__main__" else main.__globals__["__spec__"].name
        started = time.monotonic()
        with one_line_errors(name):
            main(params, data)
        if (seconds := time.monotonic() - started) > 1:
            say(f"{name}: done in {seconds:.1f} s")

    typer.run(guarded)


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """The user's mistakes end the program ``name`` with one line and exit code 2."""
    try:
        yield
    except InputError as error:
        console.print(f"[bold red]{name}[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error


def device() -> torch.device:
    """``LTDI_DEVICE`` (cpu, cuda, cuda:1 …), or CUDA where there is one. No param: another machine is no other experiment."""
    wanted = os.environ.get("LTDI_DEVICE", "auto")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(wanted)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"LTDI_DEVICE = {wanted!r} is not usable here ({str(error).splitlines()[0]}); allowed: auto, cpu, cuda, cuda:<index>"
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


def deterministic() -> None:
    """The same machine gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms does the same, and imports the compiler, which takes seconds
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
