"""What is said on the terminal: one console, plain lines on any encoding, and how a program ends on bad input."""

import codecs
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltdi.errors import InputError, refused_by_system

console = Console(highlight=False)

SPELLED = {"−": "-", "±": "+-", "×": "x", "²": "^2", "…": "...", "₀": "0", "→": "->"}
"""How a terminal shows what its encoding does not have."""
INTERRUPTED = 128 + signal.SIGINT
NARROWEST = 40
"""Columns: a terminal that says to have fewer, or none, would be shown nothing."""


def say(line: str) -> None:
    console.print(plain(line), soft_wrap=True)


def say_fewer(key: str, wanted: int, there: int, what: str) -> None:
    """That more is asked for than there is, of which all is taken."""
    if wanted > there:
        say(f"{key} = {wanted}: there are {there} {what}, and all are taken")


def plain(text: str) -> Text:
    """Text as it is: no markup, no pictures, and what would move the cursor, or is no character at all, written out."""
    return Text("".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text))


def show(rows: pd.DataFrame, told: str) -> None:
    """A table, its fractions ``told`` so."""
    table = Table()
    for column in rows:
        table.add_column(plain(str(column)), overflow="fold")
    for row in rows.itertuples(index=False):
        table.add_row(*(plain(told.format(each) if isinstance(each, float) else str(each)) for each in row))
    console.print(table)


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """The user's mistakes, and what the system refuses, end the program ``name`` with one line and exit code 2."""
    _speak_any_encoding()
    if console.width < NARROWEST:
        console.width = NARROWEST
    try:
        with _interruptible():
            yield
    except InputError as error:
        raise _ended(name, str(error)) from error
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
            _say_no_more()  # whoever read what is said has gone
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


def _ended(name: str, line: str, code: int = 2) -> SystemExit:
    try:
        console.print(f"[bold red]{name}[/]", end=": ")
        say(" ".join(line.splitlines()))
        sys.stdout.flush()
    except OSError:  # e.g. where the output goes to a full disk
        _say_no_more()
        os.write(2, f"{name}: {line}\n".encode("ascii", "spelled"))
    return SystemExit(code)


def _say_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _speak_any_encoding() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelled")
