"""What a user asks for: where it is written, nowhere that something would be lost, and what of it is shown."""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pandas as pd

from ltdi.console import say, show
from ltdi.datasets import SUFFIXES, find_images
from ltdi.errors import InputError
from ltdi.lineage import MADE_FROM
from ltdi.store import writable, write_text

SHOWN = 30
"""Rows of a table on the terminal."""


def apart(path: Path, data: Path, *inputs: Path | None) -> Path:
    """Where a user's file goes that is wanted at ``path``.

    Raises:
        InputError: it could not be written, or what is there, under whatever name, is an image, of the run in ``data``
            or one of ``inputs``: files, and folders of images.
    """
    target = writable(path)
    # as it is named, too: the files of runs and of data sets may be links into a store
    places, run = _names(path), [data / folder for folder in ("body", *MADE_FROM)]
    if any(place.is_relative_to(above) for place in places for each in run for above in _names(each)):
        raise InputError(f"{path} lies among the files of the run in {data}; name another place")
    if not target.is_file():
        return target
    if any(place.name.lower().endswith(SUFFIXES) for place in places):
        raise InputError(f"{path} is an image, and would be lost; name another place")
    read = chain((file for each in run for file in each.rglob("*")), *map(_read_at, filter(None, inputs)))
    if same := next((file for file in read if file.is_file() and file.samefile(target)), None):
        raise InputError(f"{path} is {same}, which is read and would be lost; name another place")
    return target


def _names(path: Path) -> set[Path]:
    """A place before links are followed, and after that."""
    return {Path(os.path.abspath(path)), path.resolve()}


def _read_at(place: Path) -> Iterator[Path]:
    """The files that are read where a user names a place: it, the images below, or the zip beside it."""
    yield place
    if place.is_dir():
        yield from (each for each in find_images(place).values() if isinstance(each, Path))
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


def show_first(found: pd.DataFrame, csv: Path | None, *, told: str, written: str) -> None:
    """The first rows on the terminal, fractions ``told`` so; all, fractions ``written`` so, to a file."""
    if csv:
        text = found.to_csv(index=False, float_format=written, lineterminator="\n")
        # a carriage return is not quoted, and would end a line for whoever reads
        write_text(csv, text.replace("\r", "\\r").encode("utf-8", "backslashreplace").decode())
    show(found.head(SHOWN), told)
    if len(found) > SHOWN:
        say(f"and {len(found) - SHOWN} more{f': {csv}' if csv else '; --csv writes all'}")
