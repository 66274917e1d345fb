"""What every stage shares: its command line, its device, and how it ends on bad input."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ltdi.store import writable
from ltdi.utils import distributed
from ltdi.utils.console import console, one_line_errors, say
from pipeline.common.lock import alone_in

Params = Annotated[Path, typer.Option(help="The params file.")]
Folder = Annotated[Path, typer.Option(help="The folder that the stages read from and write to.")]


def run(main: Callable[..., None], *, writes: str = "") -> None:
    """Run a stage's ``main`` as a command; the user's mistakes are one line and exit code 2.

    ``writes``: the folder of its outputs, tried before the work; while it works, no other stage runs beside it.
    """

    def guarded(params: Params = Path("params.yaml"), data: Folder = Path("data")) -> None:
        name = main.__module__ if main.__module__ != "__main__" else main.__globals__["__spec__"].name
        started = time.monotonic()
        with (
            one_line_errors(name),
            distributed.joined(),
            alone_in(data) if writes and distributed.leads() else nullcontext(),
        ):
            console.quiet = not distributed.leads()
            if writes and distributed.leads():
                writable(data / writes / "any")
            try:
                main(params, data)
            finally:
                console.quiet = False  # a mistake that this process alone has met is said
        if (seconds := time.monotonic() - started) > 1 and os.environ.get("RANK", "0") == "0":
            say(f"{name}: done in {seconds:.1f} s")

    typer.run(guarded)
