"""What a user asks for: where it is written, nowhere that something would be lost, in which form, and what is shown."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import pandas as pd

from ltdi.datasets import SUFFIXES, find_images
from ltdi.inference.model_files import is_model
from ltdi.inference.user_tables import is_table, listed_files
from ltdi.store import writable
from ltdi.store.schemas import MADE_FROM
from ltdi.utils.console import note, say, show, spoken_apart
from ltdi.utils.errors import InputError, refused_by_system

SHOWN = 30
"""Rows of a table on the terminal."""
STDOUT = Path("-")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of one."""


def apart(path: Path, data: Path, *inputs: Path | None) -> Path:
    """Where a user's file goes that is wanted at ``path``.

    Raises:
        InputError: it could not be written, or what is there, under whatever name, is an image, of the run in ``data``
            or one of ``inputs``: files, and folders of images.
    """
    target = writable(path)
    # as it is named, too: the files of runs and of data sets may be links into a store
    places, run = _names(path), [data] if is_model(data) else [data / folder for folder in ("body", *MADE_FROM)]
    if any(place.is_relative_to(above) for place in places for each in run for above in _names(each)):
        raise InputError(f"{path} lies among the files of the run in {data}; name another place")
    if not target.is_file():
        return target
    if any(place.name.lower().endswith(SUFFIXES) for place in places):
        raise InputError(f"{path} is an image, and would be lost; name another place")
    read = chain((file for each in run for file in each.rglob("*")), *map(_read_at, filter(None, inputs)))
    if same := next((file for file in read if file.is_file() and file.samefile(target)), None):
        what = "one" if same == path else f"{same},"
        raise InputError(f"{path} is {what} which is read and would be lost; name another place")
    return target


def _names(path: Path) -> set[Path]:
    """A place before links are followed, and after that."""
    return {Path(os.path.abspath(path)), path.resolve()}


def _read_at(place: Path) -> Iterator[Path]:
    """The files that are read where a user names a place: it, the images below, or the zip beside it."""
    yield place
    if place.is_dir():
        yield from (each for each in find_images(place).values() if isinstance(each, Path))
    elif is_table(place):
        yield from listed_files(place)
    elif place.name:
        yield place.with_name(f"{place.name}.zip")


def differ(one: tuple[str, Path | None], other: tuple[str, Path | None]) -> None:
    """
    Raises:
        InputError: two outputs, each with its option, are one file.
    """
    (option, a), (further, b) = one, other
    if a and b and (a.resolve() == b.resolve() or (a.is_file() and b.is_file() and a.samefile(b))):
        raise InputError(f"{option} and {further} are both {a}; name two files")


class Rows:
    """A table's rows as they come: to a file, to standard output for a program, as CSV or JSON, or to the terminal.

    Within it, all else that is said goes to standard error where standard output is for a program. A file is whole when
    it has its name: until then it is FILE.part, which stays where the work ends early.

    Args:
        csv: where to, ``-`` for standard output.
        as_json: to standard output, an object a line.
        written: how fractions are written in CSV.
    """

    def __init__(self, csv: Path | None, as_json: bool, written: str = "%.6g") -> None:
        self.csv, self.as_json, self.written = csv, as_json, written
        self.to_program = as_json or csv == STDOUT
        self.n_rows, self.part = 0, Path()
        self._within = ExitStack()

    def __enter__(self) -> "Rows":
        if self.as_json and self.csv == STDOUT:
            raise InputError("--json and --csv - both write to standard output; leave one out")
        if self.to_program:
            self._within.enter_context(spoken_apart())
        return self

    def place(self, data: Path, *inputs: Path | None) -> Path | None:
        """The file, if there is one, now that it is known what is read (``apart``)."""
        if self.csv is None or self.csv == STDOUT:
            return None
        self.csv = apart(self.csv, data, *inputs)
        self.part = apart(self.csv.with_name(f"{self.csv.name[:60]}.part"), data, *inputs)
        return self.csv

    def add(self, rows: pd.DataFrame) -> None:
        if self.as_json:
            sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in _plain_rows(rows)))
        if self.csv == STDOUT:
            sys.stdout.write(self._text(rows))
        if self.to_program:
            sys.stdout.flush()
        if self.csv and self.csv != STDOUT:
            try:
                self.csv.parent.mkdir(parents=True, exist_ok=True)
                with open(self.part, "a" if self.n_rows else "w", encoding="utf-8", newline="") as file:
                    file.write(self._text(rows))
            except OSError as error:
                raise refused_by_system(error, self.csv) from error
        self.n_rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, *of: object) -> None:
        with self._within:
            if self.part == Path() or not self.part.exists():
                return
            if kind and not self.n_rows:
                return self.part.unlink()
            if kind:
                note(f"{self.part}: the first {self.n_rows} rows, as far as it came")
                return
            try:
                os.replace(self.part, self.csv or self.part)
            except OSError as error:
                raise refused_by_system(error, self.csv or self.part) from error

    def show(self, rows: pd.DataFrame, told: str) -> None:
        """The first rows on the terminal, fractions ``told`` so."""
        if self.to_program:
            return
        show(rows.head(SHOWN), told)
        if len(rows) > SHOWN:
            say(f"and {len(rows) - SHOWN} more{f': {self.csv}' if self.csv else '; --csv writes all'}")

    def _text(self, rows: pd.DataFrame) -> str:
        # as objects: what is no text, as a file's name may be, fits into no column of text
        cells = rows.reset_index(drop=True)
        for name in cells.select_dtypes(exclude="number"):
            cells[name] = pd.Series(list(map(as_text, cells[name])), dtype=object)
        text = cells.to_csv(index=False, header=not self.n_rows, float_format=self.written, lineterminator="\n")
        # a carriage return is not quoted, and would end a line for whoever reads
        return text.replace("\r", "\\r").encode("utf-8", "backslashreplace").decode()


def as_text(cell: object) -> object:
    """A spreadsheet computes what begins so, and what a folder is named would run there: behind a quote it is text."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _plain_rows(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    """A row as plain values, with none for what is no number."""
    for row in rows.to_dict("records"):
        told = {str(name): None if value != value else value for name, value in row.items()}
        yield {name: getattr(value, "item", lambda value=value: value)() for name, value in told.items()}
