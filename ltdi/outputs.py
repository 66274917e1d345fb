"""What a user asks for: where it is written, nowhere that something would be lost, and what of it is shown."""

from pathlib import Path

import pandas as pd

from ltdi.console import say, show
from ltdi.datasets import SUFFIXES
from ltdi.errors import InputError
from ltdi.lineage import MADE_FROM
from ltdi.store import writable, write_text

SHOWN = 30
"""Rows of a table on the terminal."""


def apart(path: Path, data: Path) -> Path:
    """Where a user's file goes that is wanted at ``path``.

    Raises:
        InputError: it could not be written, or what is there is an image or of the run in ``data``.
    """
    target = writable(path)
    place = target.resolve()
    if any(place.is_relative_to((data / folder).resolve()) for folder in ("body", *MADE_FROM)):
        raise InputError(f"{path} lies among the files of the run in {data}; name another place")
    if place.is_file() and place.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path} is an image, and would be lost; name another place")
    return target


def show_first(found: pd.DataFrame, csv: Path | None, *, told: str, written: str) -> None:
    """The first rows on the terminal, fractions ``told`` so; all, fractions ``written`` so, to a file."""
    if csv:
        text = found.to_csv(index=False, float_format=written, lineterminator="\n")
        # a carriage return is not quoted, and would end a line for whoever reads
        write_text(csv, text.replace("\r", "\\r").encode("utf-8", "backslashreplace").decode())
    show(found.head(SHOWN), told)
    if len(found) > SHOWN:
        say(f"and {len(found) - SHOWN} more{f': {csv}' if csv else '; --csv writes all'}")
