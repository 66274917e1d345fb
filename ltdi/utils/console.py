"""What is said on the terminal: one console, plain lines on any encoding, and how a program ends on bad input."""

import codecs
import errno
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltdi.utils.errors import InputError, Remark, refused_by_system

if TYPE_CHECKING:  # it takes a second
    import pandas as pd

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
_quiet = [False]

SPELLED = {"−": "-", "±": "+-", "×": "x", "²": "^2", "…": "...", "₀": "0", "→": "->"}
"""How a terminal shows what its encoding does not have."""
INTERRUPTED = 128 + signal.SIGINT
EVERY = 5.0
"""Seconds between two words on how far something is."""
FEWEST = 200
"""Items of which a bar is shown."""
NARROWEST = 40
"""Columns: a terminal that says to have fewer, or none, would be shown nothing."""


def say(line: str) -> None:
    console.print(plain(line), soft_wrap=True)


def comment(line: str) -> None:
    """Say what is no answer, unless it is to be quiet."""
    if not is_quiet():
        say(line)


def note(line: str) -> None:
    """Beside what was asked for: on standard error, unless it is to be quiet."""
    if not is_quiet():
        errors.print(plain(line), soft_wrap=True)


def is_quiet() -> bool:
    """Whether answers and errors alone are shown (``quietly``)."""
    return _quiet[-1]


@contextmanager
def quietly(wanted: bool = True) -> Iterator[None]:
    """Show answers and errors alone, if ``wanted``, for as long as it lasts."""
    _quiet.append(wanted)
    try:
        yield
    finally:
        _quiet.pop()


class Pace:
    """Says now and then how many of ``total`` there are, ``what`` they are."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.last = total, what, time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self.last >= EVERY:
            note(f"{done:,} of {self.total:,} {self.what}")
            self.last = time.monotonic()


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Give a function that is called with the number of items that are done: of many a bar on a terminal, else a line
    now and then."""
    if not errors.is_terminal or total < FEWEST:
        yield Pace(total, what)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=errors, transient=True, disable=is_quiet()) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)


@contextmanager
def spoken_apart() -> Iterator[None]:
    """Standard output is for what a program reads: all that is said goes to standard error.

    Raises:
        InputError: it is closed.
    """
    if getattr(sys.stdout, "name", "") == os.devnull:
        raise InputError("standard output is closed, and answers were to go there; leave it open, or name a file")
    console.stderr = True
    try:
        yield
    finally:
        console.stderr = False


def say_fewer(key: str, wanted: int, there: int, what: str) -> None:
    """That more is asked for than there is, of which all is taken."""
    if wanted > there:
        say(f"{key} = {wanted}: there are {there} {what}, and all are taken")


def plain(text: str) -> Text:
    """Text as it is: no markup, no pictures, and what would move the cursor, or is no character at all, written out."""
    return Text("".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text))


def show(rows: "pd.DataFrame", told: str) -> None:
    """A table, its fractions ``told`` so."""
    table = Table()
    for column in rows:
        table.add_column(plain(str(column)), overflow="fold")
    for row in rows.itertuples(index=False):
        table.add_row(*(plain(told.format(each) if isinstance(each, float) else str(each)) for each in row))
    console.print(table)


def show_values(values: Mapping[str, object]) -> None:
    """Plain values by name, a row each."""
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(plain(name), plain(str(value)))
    console.print(table)


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """The user's mistakes, and what the system refuses, end the program ``name`` with one line and exit code 2."""
    _open_streams()
    if console.width < NARROWEST:
        console.width = NARROWEST
    try:
        with _interruptible(), _remarks():
            yield
    except InputError as error:
        raise _ended(name, str(error)) from error
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
            _say_no_more(sys.stdout)  # whoever read what is said has gone
            raise SystemExit(1) from error
        raise _ended(name, str(refused_by_system(error))) from error
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        what = "more memory is needed than there is"
        if "without overflow" in why:
            what = "a number is larger than can be computed with"
        line = f"{what} ({why}); lower the sizes that were set, or what is done at a time"
        raise _ended(name, line) from error
    except KeyboardInterrupt as error:
        line = "interrupted; run the same again, what is finished stays"
        raise _ended(name, line, INTERRUPTED) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """An interrupt is an exception; before and after, where programs let it end the process, e.g. while modules are
    imported, it has nothing to tidy up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _remarks() -> Iterator[None]:
    """Remarks are notes, and other warnings what they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Remark)
        shown = warnings.showwarning

        def show_or_note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, Remark):
                return note(f"note: {message}")
            shown(message, category, *where, **more)

        warnings.showwarning = show_or_note
        yield


def _ended(name: str, line: str, code: int = 2) -> SystemExit:
    try:
        sys.stdout.flush()
    except OSError:  # e.g. where the output goes to a full disk
        _say_no_more(sys.stdout)
    try:
        errors.print(f"[bold red]{name}[/]", end=": ")
        errors.print(plain(" ".join(line.splitlines())), soft_wrap=True)
    except OSError:
        _say_no_more(sys.stderr)
    return SystemExit(code)


def _say_no_more(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_of_memory(error: Exception) -> bool:
    """Whether it says that something is too large; torch has no type of its own for that."""
    said = str(error).lower()
    told = ("allocat", "out of memory", "overflow", "too large", "too many dimensions")
    return isinstance(error, MemoryError | OverflowError) or any(each in said for each in told)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    said = error.object[error.start : error.end]
    return "".join(SPELLED.get(c, c.encode("ascii", "backslashreplace").decode()) for c in said), error.end


codecs.register_error("spelled", _spelled)


def _open_streams() -> None:
    """Streams that show any text, and nothing where the caller has closed them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelled")
