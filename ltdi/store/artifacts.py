"""Exchanged files: safetensors, parquet and JSON that carry their kind, format version, digest and provenance.

A file's metadata hold its ``kind``, the format ``version``, in ``made_from`` the digests of the files that it was made
from, and the SHA-256 of the file's own bytes, with zeros in the place of the digest. Readers check all of it: a file
that was altered, is of another kind, or was made from other files than those beside it is an error of one line.
"""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ltdi.store.files import atomically, existing
from ltdi.store.schemas import Schema, is_finite
from ltdi.utils.errors import InputError, refused_by_system

VERSION = 2
HEADER = "ltdi"
"""Key of the header in the metadata of every format."""
KEYS = ("digest", "kind", "version", "made_from")
ZEROS = "sha256:" + "0" * 64
"""Stands in the place of the digest while it is computed."""
DIGEST = re.compile(rb"sha256:([0-9a-f]{64})")
ALTERED = "altered since it was written"


# -- digests and provenance ---------------------------------------------------------------------------


def _content(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file, mapped."""
    try:
        with existing(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""
    except OSError as error:
        raise refused_by_system(error, path) from error


def digest_of(path: Path) -> str:
    """The digest that a file carries, "" if none; it is not verified."""
    found = DIGEST.search(_content(path))
    return found[1].decode() if found else ""


def _header(path: Path, kind: str, made_from: Iterable[Path]) -> dict[str, Any]:
    # the digest stands first: made_from holds others
    origins = {os.path.relpath(file, path.parent): digest_of(file) for file in made_from if file.is_file()}
    return dict(zip(KEYS, (ZEROS, kind, VERSION, dict(sorted(origins.items())))))


def _write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file atomically and set its digest."""

    def write(temporary: Path) -> None:
        save(temporary)
        content = _content(temporary)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}".encode()
        with temporary.open("r+b") as file:
            file.seek(content.find(ZEROS.encode()))
            file.write(digest)

    atomically(path, write)


def _verified(path: Path, schema: Schema, of: str) -> bytes | mmap.mmap:
    """The bytes of a file whose digest is right.

    Raises:
        InputError: the file is missing, has no digest, or was altered.
    """
    content = _content(path)
    found = DIGEST.search(content)
    if found is None:
        if schema.instead and (what := _foreign(content[:512])):
            raise InputError(f"{path}: {what}, and no file of {of}; {schema.instead}")
        raise schema.refuse(path, f"not a whole {of} file of ltdi's")
    sha, view = hashlib.sha256(), memoryview(content)
    for part in (view[: found.start()], ZEROS.encode(), view[found.end() :]):
        sha.update(part)
    if sha.hexdigest() != found[1].decode():
        raise schema.refuse(path, ALTERED)
    return content


def _foreign(start: bytes) -> str:
    """What a file is that begins with ``start`` and was never of safetensors; "" if it may be a part of one."""
    if not start or start[8:9] in (b"{", b""):
        return ""
    if start.startswith(b"PK"):
        return "a zip"
    return "a file of another kind" if b"\0" in start else "a text"


def _check_header(path: Path, schema: Schema, header: Any) -> None:
    """
    Raises:
        InputError: the file is of another kind or version, or was made from other files than those beside it.
    """
    if not isinstance(header, dict) or not isinstance(header.get("made_from"), dict):
        raise schema.refuse(path, f"no file of ltdi's, and {schema.kind!r} is needed")
    if header["kind"] != schema.kind:
        raise schema.refuse(path, f"holds {header['kind']!r}, and {schema.kind!r} is needed")
    if header["version"] != VERSION:
        raise schema.refuse(path, f"of version {header['version']!r}, and {VERSION} is read")
    check_origins(path, schema, header["made_from"])


def check_origins(path: Path, schema: Schema, made_from: Mapping[str, str]) -> None:
    """Compare the files that a file was made from with those that are there.

    Raises:
        InputError: one is another, or one of the same folder is missing.
    """
    for place, digest in made_from.items():
        file = Path(os.path.normpath(path.parent / place))
        if not file.is_file() and (file.parent == path.parent or file.exists()):
            raise schema.refuse(path, f"was made from {file}, which is not there, or no file")
        if file.is_file() and digest_of(file) != digest:
            raise schema.refuse(path, f"was made from another {file} than is there now")


# -- tensors ------------------------------------------------------------------------------------------


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    kind: str,
    finite: bool = True,
    made_from: Iterable[Path] = (),
) -> None:
    """Write tensors and JSON values as safetensors.

    Raises:
        InputError: a tensor holds NaN or infinity, unless ``finite`` is False.
    """
    path = Path(path)
    # safetensors refuses tensors that share memory, as state dicts and views may
    copies = {name: each.detach().cpu().clone(memory_format=torch.contiguous_format) for name, each in tensors.items()}
    for name, tensor in copies.items() if finite else ():
        if not is_finite(tensor):
            raise InputError(
                f"{path}: {name} of this {kind} is not finite; nothing was written: lower the rates it came from"
            )
    # one key: safetensors writes several in random order, and the same run must give the same bytes
    header = {HEADER: json.dumps(_header(path, kind, made_from) | {"values": dict(metadata or {})})}
    _write(path, lambda p: save_file(copies, p, metadata=header))


def read_tensors(path: str | Path, *, kind: str | Schema) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped where the system allows it, and the values of a file of that ``kind``.

    Raises:
        InputError: the file is missing, of another kind or version, altered, made from other files than those beside
            it, or does not fit its schema.
    """
    path, schema = Path(path), Schema.of(kind)
    _verified(path, schema, "safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise schema.refuse(path, f"not a whole safetensors file ({' '.join(str(error).split())})") from error
    _check_header(path, schema, header)
    schema.check_facts(path, header.get("values"))
    schema.check_tensors(path, tensors)
    return tensors, header["values"]


def write_plain_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors for other programs, without a header."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomically(Path(path), lambda p: save_file(plain, p, metadata=dict(metadata)))


# -- tables -------------------------------------------------------------------------------------------


def write_table(path: str | Path, table: pd.DataFrame, *, kind: str = "", made_from: Iterable[Path] = ()) -> None:
    """Write a table as parquet; its ``kind`` is the file's name unless given."""
    path = Path(path)
    header = {HEADER: json.dumps(_header(path, kind or path.stem, made_from))}
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(header)
    _write(path, lambda p: pq.write_table(arrow, p))


def read_table(path: str | Path, *, kind: str | Schema = "") -> pd.DataFrame:
    """The table of a file of that ``kind``.

    Raises:
        InputError: as ``read_tensors``.
    """
    path = Path(path)
    schema = Schema.of(kind or path.stem)
    content = _verified(path, schema, "parquet")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        header = json.loads((file.metadata.metadata or {}).get(HEADER.encode(), b"null"))
        table = file.read().to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise schema.refuse(path, f"not a whole parquet file ({' '.join(str(error).split())[:200]})") from error
    _check_header(path, schema, header)
    schema.check_table(path, table)
    return table


# -- JSON ---------------------------------------------------------------------------------------------


def write_json(path: str | Path, value: Mapping[str, Any], *, kind: str = "", made_from: Iterable[Path] = ()) -> None:
    """Write values as JSON; their ``kind`` is the file's name unless given.

    Raises:
        InputError: a number is NaN or infinity, which JSON does not have.
    """
    path = Path(path)
    # a list, which DVC does not show among the metrics
    header = list(_header(path, kind or path.stem, made_from).values())
    try:
        text = json.dumps({HEADER: header, **value}, indent=2, allow_nan=False)
    except ValueError as error:
        raise InputError(
            f"{path}: a number is NaN or infinity; nothing was written: lower the rates it came from"
        ) from error
    _write(path, lambda p: p.write_text(f"{text}\n", encoding="utf-8"))


def read_json(path: str | Path, *, kind: str | Schema = "") -> dict[str, Any]:
    """The values of a file of that ``kind``.

    Raises:
        InputError: as ``read_tensors``.
    """
    path = Path(path)
    schema = Schema.of(kind or path.stem)
    content = _verified(path, schema, "JSON")
    try:
        value = json.loads(bytes(content))
        header = dict(zip(KEYS, value.pop(HEADER), strict=True))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise schema.refuse(path, "not a whole JSON file of ltdi's") from error
    _check_header(path, schema, header)
    schema.check_facts(path, value)
    return value
