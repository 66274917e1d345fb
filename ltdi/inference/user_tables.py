"""Tables of image files: ``file,label`` for classes, and lists of files to classify, as CSV, between tabs, or a path a
line."""

from pathlib import Path

from ltdi.utils.errors import InputError, short
from ltdi.utils.plain_files import read_rows, text_of

TABLES = (".csv", ".tsv", ".txt")
"""What the names of such files end in; .txt holds a path a line."""
FILES = ("file", "path", "image", "filename", "filepath", "image_path")
LABELS = ("label", "class", "target", "category")
"""What the columns may be named, whatever the case of their letters."""


def is_table(place: Path) -> bool:
    """Whether a place is a table of image files."""
    return place.suffix.lower() in TABLES and place.is_file()


def labelled_files(table: Path) -> dict[str, list[Path]]:
    """The image files of each class, in the table's order; paths are relative to the table's folder.

    Raises:
        InputError: a column is missing, a row has no label, or a file is not there.
    """
    if table.suffix.lower() == ".txt":
        raise InputError(f"{table} holds paths without labels; give a table of the columns file and label (.csv, .tsv)")
    found: dict[str, list[Path]] = {}
    files, labels, lines = _columns(table)
    if labels is None:
        raise InputError(f"{table}: no column of labels; name one {LABELS[0]} (or {', '.join(LABELS[1:])})")
    for file, label, line in zip(files, labels, lines, strict=True):
        if not label.strip():
            raise InputError(f"{table}: line {line} has no label; add one, or take the line out")
        found.setdefault(label.strip(), []).append(_there(table, file, line))
    return found


def listed_files(table: Path) -> list[Path]:
    """The image files that a table or a list names; labels are passed over.

    Raises:
        InputError: it names none, or one that is not there.
    """
    if table.suffix.lower() != ".txt":
        files, _, lines = _columns(table)
        return [_there(table, file, line) for file, line in zip(files, lines, strict=True)]
    named = [(line.strip(), number) for number, line in enumerate(text_of(table).splitlines(), 1) if line.strip()]
    if not named:
        raise InputError(f"{table}: an empty file; write a path a line")
    return [_there(table, name, number) for name, number in named]


def _columns(table: Path) -> tuple[list[str], list[str] | None, list[int]]:
    """The fields of files, those of labels where there are any, and their lines."""
    rows = read_rows(table, kind=LABELS[0], tabs=table.suffix.lower() == ".tsv")
    names = [name.lower() for name in rows.columns]
    place = next((names.index(name) for name in FILES if name in names), None)
    if place is None:
        raise InputError(
            f"{table}: no column of files among {short(', '.join(rows.columns))}; name one {FILES[0]} (or"
            f" {', '.join(FILES[1:])})"
        )
    label = next((names.index(name) for name in LABELS if name in names), None)
    labels = None if label is None else [row[label] for row in rows.rows]
    return [row[place] for row in rows.rows], labels, rows.lines


def _there(table: Path, name: str, line: int) -> Path:
    file = table.parent / name.strip()
    if not name.strip() or not file.is_file():
        raise InputError(f"{table}: line {line}: {file}: no such file; paths are relative to the table's folder")
    return file
