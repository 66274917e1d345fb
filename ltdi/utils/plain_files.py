"""Files of people and their programs, in folders and zips: bytes, text, and tables of csv or between tabs, read as they
are meant, or refused in one line."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltdi.utils.errors import InputError, refused_by_system, short

File = Path | zipfile.Path

KINDS = {
    b"\x1f\x8b": ("gzip", "unpack it"),
    b"PK\x03\x04": ("zip", "unpack it"),
    b"PAR1": ("parquet", "let its name end in .parquet"),
    b"\xff\xfe": ("UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8"),
}
"""What a file that is no text of UTF-8 begins with, what it then is, and what to do."""

UNPACKING = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error)
"""What zipfile raises of a member that is damaged, encrypted, or packed by a method that it does not know."""


@dataclass(frozen=True)
class Rows:
    """The names of a table's ``columns``, its ``rows`` of as many fields, and the number of the ``lines`` that each
    ends in."""

    columns: list[str]
    rows: list[list[str]]
    lines: list[int]


def content_of(file: File) -> bytes:
    """
    Raises:
        InputError: there is no such file, or it cannot be read or unpacked.
    """
    if not file.is_file():  # a pipe would be waited for
        raise InputError(f"{file}: {'no regular file' if file.exists() else 'no such file'}; name another file")
    try:
        return file.read_bytes()
    except UNPACKING as error:
        raise cannot_unpack(file, error) from error
    except OSError as error:
        raise refused_by_system(error, str(file)) from error


def cannot_unpack(file: File, error: Exception) -> InputError:
    """What one of ``UNPACKING`` says, as one line."""
    why = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{file}: cannot be unpacked ({why}); unpack the zip with another program, and name the folder")


def text_of(file: File) -> str:
    """The text of a file of UTF-8, with or without a byte-order mark.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    content = content_of(file)
    for start, (kind, remedy) in KINDS.items():
        if content.startswith(start):
            raise InputError(f"{file}: a file of {kind}, and text of UTF-8 is read; {remedy}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise InputError(
            f"{file}: line {line} holds the byte 0x{byte:02x}, which is no UTF-8 (cp1252 or Latin-1?); save the file as"
            " UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{file}: line {line} holds a NUL, so it is no text of UTF-8; save the file as UTF-8")
    return text


def read_any_json(path: str | Path) -> dict[str, Any]:
    """An object of JSON that another program wrote.

    Raises:
        InputError: the file is missing, or no JSON object.
    """
    content = content_of(Path(path))
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole JSON file ({' '.join(str(error).split())}); get it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not an object of JSON; get it again")
    return value


def read_rows(file: File, *, kind: str, tabs: bool = False) -> Rows:
    """A table with a line of names above it. Fields stand between commas, and in quotation marks where they hold any;
    or between tabs, and then a quotation mark is a character like others. ``kind`` is the column that has few values.

    Raises:
        InputError: it cannot be read, has no rows, a row has not as many fields as there are columns, or a quotation
            mark is not closed.
    """
    records = _records(file, text_of(file), tabs)
    _, header = next(records, (0, []))
    columns = [name.strip() for name in header]
    if not columns:
        raise InputError(f"{file}: an empty file; needed are a line of the columns' names and a line a row")
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise InputError(f"{file}: two columns are named {twice[0]!r}; give each a name of its own")
    rows, lines = [], []
    for line, fields in records:
        if len(fields) != len(columns):
            remedy = "write a space for a tab in a field" if tabs else "put quotation marks around a field with a comma"
            raise InputError(
                f"{file}: line {line} has {len(fields)} fields, and there are {len(columns)} columns"
                f" ({', '.join(map(short, columns))}); {remedy}"
            )
        rows.append(fields)
        lines.append(line)
    if not rows:
        raise InputError(f"{file}: no rows below the columns' names; add them")
    found = Rows(columns, rows, lines)
    if not tabs:
        _no_row_is_swallowed(file, kind, found)
    return found


def _records(file: File, text: str, tabs: bool) -> Iterator[tuple[int, list[str]]]:
    """The number of each line that is not empty, and its fields."""
    if tabs:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    first = 1
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
            first = reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            raise InputError(
                f"{file}: the field that begins at line {first} or later has more than {csv.field_size_limit():,}"
                " characters; shorten it, or close its quotation mark"
            ) from error
        raise InputError(
            f"{file}: the row that begins at line {first} cannot be read ({error}); close its quotation mark, and write"
            ' one within a field in quotation marks as ""'
        ) from error


def _no_row_is_swallowed(file: File, kind: str, found: Rows) -> None:
    """A mark that is never closed ends at the next field that begins with one: what lies between looks like rows.

    Raises:
        InputError: within a field stands a line with as many fields as a row, that of ``kind`` as in another row.
    """
    if kind not in found.columns:
        return
    n, place = len(found.columns), found.columns.index(kind)
    kinds = {row[place].strip() for row in found.rows}
    for row, line in zip(found.rows, found.lines):
        for inner in (inner for field in row if "\n" in field or "\r" in field for inner in field.splitlines()):
            fields = inner.split(",")
            if len(fields) >= n and not kinds.isdisjoint((fields[place].strip(), fields[place - n].strip())):
                raise InputError(
                    f"{file}: the row that ends in line {line} has a field in quotation marks that holds what looks"
                    f" like a row of its own ({short(inner)}); close the quotation mark, or take the line breaks out"
                )
