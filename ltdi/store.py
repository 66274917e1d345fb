"""Tensors <-> safetensors, tables <-> parquet, digests and atomic writes. Knows no machine learning.

Every tensor file carries its kind, its version and the digest of its content, every table the digest of its file; they
are checked when it is read. A reader never sees a half-written file: everything is written to a temporary name in the
same folder and renamed. No pickle is read or written.
"""

import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ltdi.errors import InputError

VERSION = 1
"""Of the files that stages exchange and users keep."""

_UNSEALED = b"sha256:" + b"0" * 64
_UMASK = os.umask(0)
os.umask(_UMASK)


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    """
    Raises:
        InputError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_UMASK)  # safetensors writes files that only their owner can read
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        # safetensors tells the number of a system error in its text alone
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC})" in str(error):
            raise InputError(
                f"{path}: no space left on the disk; free some and run the same again, what is finished stays"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    _atomically(Path(path), lambda p: p.write_text(text, encoding="utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    _atomically(Path(path), lambda p: p.write_bytes(content))


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """
    Raises:
        InputError: the file is missing or not JSON.
    """
    path = _existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a whole JSON file ({error}); delete it and run its stage again") from error


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    kind: str,
    finite: bool = True,
) -> str:
    """Write a file of that ``kind`` and give the digest of its content. ``metadata`` values are stored as JSON, so that
    numbers and lists come back as they went in.

    Raises:
        InputError: a tensor holds NaN or infinity, unless ``finite`` is False.
    """
    # safetensors refuses tensors that share memory, which state dicts and views may
    contiguous = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    for name, tensor in contiguous.items():
        if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"{path}: {name} of this {kind} is not finite; nothing was written: lower the rates it came from"
            )
    values = dict(metadata or {})
    seal = digest(contiguous, values)
    # one key: safetensors writes several in an order of its own, and the same run must give the same bytes
    header = {"ltdi": json.dumps({"kind": kind, "version": VERSION, "digest": seal, "values": values})}
    _atomically(Path(path), lambda p: save_file(contiguous, p, metadata=header))
    return seal


def read_tensors(path: str | Path, *, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors, mapped rather than read where the system allows it, and the metadata of a file of that ``kind``.

    Raises:
        InputError: the file is missing, of another kind or version, or not what was written.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {}).get("ltdi", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}); delete it and run its stage again"
        ) from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = header.get("kind") if isinstance(header, dict) else "no file of ltdi's"
        raise InputError(f"{path}: holds {found!r}, and {kind!r} is needed; name another file, or run its stage again")
    if header.get("version") != VERSION:
        raise InputError(f"{path}: of version {header.get('version')!r}, and {VERSION} is read; run its stage again")
    if digest(tensors, header.get("values")) != header.get("digest"):
        raise InputError(f"{path}: altered since it was written; delete it and run its stage again")
    return tensors, header["values"]


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata({"ltdi": _UNSEALED})
    file = io.BytesIO()
    pq.write_table(arrow, file)
    content = file.getvalue()
    _atomically(Path(path), lambda p: p.write_bytes(content.replace(_UNSEALED, _seal(content))))


def read_table(path: str | Path) -> pd.DataFrame:
    """
    Raises:
        InputError: the file is missing, not a parquet file, or not what was written.
    """
    path = _existing(path)
    content = path.read_bytes()
    # before parsing: parquet's own checksums are of pages alone, and names and types of columns lie elsewhere
    seal = re.search(rb"sha256:[0-9a-f]{64}", content)
    if seal is None:
        raise InputError(f"{path}: not a whole parquet file of ltdi's; delete it and run its stage again")
    if _seal(content.replace(seal[0], _UNSEALED)) != seal[0]:
        raise InputError(f"{path}: altered since it was written; delete it and run its stage again")
    return pq.read_table(pa.BufferReader(content)).to_pandas()


def _seal(content: bytes) -> bytes:
    """Of a table's file that holds ``_UNSEALED`` in its place."""
    return b"sha256:" + hashlib.sha256(content).hexdigest().encode()


def write_tsv(path: str | Path, table: pd.DataFrame) -> None:
    _atomically(Path(path), lambda p: table.to_csv(p, sep="\t", index=False, lineterminator="\n"))


def digest(*values: Any) -> str:
    """A name for values made of JSON types, tensors and dicts of tensors: equal values, equal name, everywhere."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            sha.update(repr((str(value.dtype), tuple(value.shape))).encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping) and any(isinstance(each, torch.Tensor) for each in value.values()):
            for name in sorted(value):
                sha.update(digest(name, value[name]).encode())
        else:
            # JSON holds no NUL, so this marks where one value ends
            sha.update(json.dumps(value, sort_keys=True).encode() + b"\0")
    return sha.hexdigest()


class Cache:
    """A content-addressed folder for what a killed run should find again.

    It lies outside the outputs of any stage, because DVC deletes those before the stage runs.
    Its place is ``LTDI_STORE``, or the user's cache folder.
    """

    def __init__(self, kind: str) -> None:
        root = os.environ.get("LTDI_STORE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltdi"
        self.kind, self.folder = kind, Path(root).absolute() / kind

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def keep(
        self, key: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], *, finite: bool = True
    ) -> Path:
        write_tensors(self.path(key), tensors, metadata, kind=self.kind, finite=finite)
        return self.path(key)

    def find(self, key: str) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]] | None:
        """The file under ``key`` and what it holds, or None if it is missing or not what was kept."""
        try:
            return self.path(key), *read_tensors(self.path(key), kind=self.kind)
        except InputError:
            return None

    def drop(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` without a second copy on disk where the file system allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        _atomically(target, lambda p: shutil.copyfile(source, p))


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it, or `dvc repro`")
    return path
