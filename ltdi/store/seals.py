"""Seals: what a file is, what it was made from, and the digest of it all."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ltdi.store.files import existing, read_bytes
from ltdi.store.schema import Schema

VERSION = 1
"""Of the files that stages exchange and users keep."""

PREFIX = b"sha256:"
UNSEALED = PREFIX + b"0" * 64
"""What stands in the place of the seal while that of bytes is taken."""

ALTERED = "altered since it was written"


def seal_of_bytes(content: bytes) -> bytes:
    """Of a file's content that holds ``UNSEALED`` in its place."""
    return PREFIX + hashlib.sha256(content).hexdigest().encode()


def sealed(content: bytes) -> bytes:
    return content.replace(UNSEALED, seal_of_bytes(content), 1)


def read_sealed(path: Path, schema: Schema, what: str) -> bytes:
    """The bytes of a file that carries its seal among them.

    Raises:
        InputError: it has none, or was altered.
    """
    content = read_bytes(path)
    found = re.search(rb"sha256:[0-9a-f]{64}", content)
    if found is None:
        raise schema.refuse(path, f"no whole {what} file of ltdi's")
    if seal_of_bytes(content.replace(found[0], UNSEALED, 1)) != found[0]:
        raise schema.refuse(path, ALTERED)
    return content


def seal_of(path: Path) -> str:
    """The seal that a file carries, unchecked: its readers check it."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(existing(path), framework="pt") as file:
                return str(header_of((file.metadata() or {}).get("ltdi", "null")).get("digest"))
        except (SafetensorError, OSError, ValueError):
            return ""
    found = re.search(rb"sha256:[0-9a-f]{64}", read_bytes(path))
    return found[0].removeprefix(PREFIX).decode() if found else ""


def header_of(text: str) -> dict[str, Any]:
    """What stands in a file's header under the name of this package; nothing where that is none of ours."""
    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def origin_seals(path: Path, made_from: Iterable[Path]) -> dict[str, str]:
    """The seals of the files that the file at ``path`` is made from, by where they lie from its folder."""
    seals = {os.path.relpath(file, path.parent): seal_of(file) for file in made_from if file.is_file()}
    return {place: seals[place] for place in sorted(seals)}


def check_header(path: Path, schema: Schema, kind: Any, version: Any, made_from: Any) -> None:
    """
    Raises:
        InputError: the file is of another kind or version, or made from others than those beside it.
    """
    if kind != schema.kind:
        raise schema.refuse(path, f"holds {kind!r}, and {schema.kind!r} is needed")
    if version != VERSION:
        raise schema.refuse(path, f"of version {version!r}, and {VERSION} is read")
    check_origins(path, schema, made_from)


def check_origins(path: Path, schema: Schema, made_from: Any) -> None:
    """
    Raises:
        InputError: of the files that the file was made from, another is there now, or one of its own folder is not.
    """
    for place, seal in made_from.items():
        file = Path(os.path.normpath(path.parent / place))
        if file.parent == path.parent and not file.is_file():
            raise schema.refuse(path, f"was made from {file}, which is not there")
        if file.is_file() and seal_of(file) != seal:
            raise schema.refuse(path, f"was made from another {file} than is there now")
