"""What is said on the terminal: one console, plain lines, and how a program ends on bad input."""

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltdi.errors import InputError

console = Console(highlight=False)


def say(line: str) -> None:
    console.print(plain(line), soft_wrap=True)


def plain(text: str) -> Text:
    """Text as it is: no markup, no pictures, and what would move the cursor, or is no character at all, written out."""
    return Text("".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text))


def show(rows: pd.DataFrame, told: str) -> None:
    """A table, its fractions ``told`` so."""
    table = Table()
    for column in rows:
        table.add_column(str(column), overflow="fold")
    for row in rows.itertuples(index=False):
        table.add_row(*(plain(told.format(each) if isinstance(each, float) else str(each)) for each in row))
    console.print(table)


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """The user's mistakes end the program ``name`` with one line and exit code 2."""
    try:
        yield
    except InputError as error:
        console.print(f"[bold red]{name}[/]", end=": ")
        say(str(error))
        raise SystemExit(2) from error
