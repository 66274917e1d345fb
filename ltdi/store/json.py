"""Facts <-> JSON."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ltdi.store.files import read_bytes, write_text
from ltdi.store.schema import Schema
from ltdi.store.seals import ALTERED, UNSEALED, VERSION, check_header, origin_seals, read_sealed, sealed
from ltdi.utils.errors import InputError

HEADER = "ltdi"
"""The key of seal, kind, version and origins; a list, which DVC shows among no metrics."""


def write_json(path: str | Path, value: Mapping[str, Any], *, kind: str = "", made_from: Iterable[Path] = ()) -> None:
    """Write facts of that ``kind``, or of the file's name; of the files in ``made_from`` that are there, the seals.

    Raises:
        InputError: a number is NaN or infinity, which JSON does not have.
    """
    path = Path(path)
    header = [UNSEALED.decode(), kind or path.stem, VERSION, origin_seals(path, made_from)]
    try:
        text = json.dumps({HEADER: header, **value}, indent=2, allow_nan=False)
    except ValueError as error:
        raise InputError(
            f"{path}: a number is NaN or infinity; nothing was written: lower the rates it came from"
        ) from error
    write_text(path, sealed(f"{text}\n".encode()).decode())


def read_json(path: str | Path, *, kind: str | Schema = "") -> dict[str, Any]:
    """
    Raises:
        InputError: the file is missing, not JSON of that kind, not what was written, or made from others than the files
            beside it.
    """
    path = Path(path)
    schema = Schema.of(kind or path.stem)
    content = read_sealed(path, schema, "JSON")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise schema.refuse(path, "not a whole JSON file") from error
    header = value.pop(HEADER, None) if isinstance(value, dict) else None
    if not isinstance(header, list) or len(header) != 4 or not isinstance(header[3], dict):
        raise schema.refuse(path, ALTERED)
    check_header(path, schema, *header[1:])
    schema.check_facts(path, value)
    return value


def read_any_json(path: str | Path) -> dict[str, Any]:
    """Of another program, without a seal.

    Raises:
        InputError: the file is missing, or no JSON object.
    """
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole JSON file ({' '.join(str(error).split())}); get it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not an object of JSON; get it again")
    return value
