"""Tensors <-> safetensors."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ltdi.store.digests import digest
from ltdi.store.files import atomically, existing
from ltdi.store.schema import Schema, is_finite
from ltdi.store.seals import ALTERED, VERSION, check_header, header_of, origin_seals
from ltdi.utils.errors import InputError


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    kind: str,
    finite: bool = True,
    made_from: Iterable[Path] = (),
) -> str:
    """Write a file of that ``kind`` and give the digest of its content. ``metadata`` values are stored as JSON, so that
    numbers and lists come back as they went in; of the files in ``made_from`` that are there, the seals.

    Raises:
        InputError: a tensor holds NaN or infinity, unless ``finite`` is False.
    """
    path = Path(path)
    # safetensors refuses tensors that share memory, which state dicts and views may
    contiguous = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    for name, tensor in contiguous.items() if finite else ():
        if not is_finite(tensor):
            raise InputError(
                f"{path}: {name} of this {kind} is not finite; nothing was written: lower the rates it came from"
            )
    values = dict(metadata or {})
    seals = origin_seals(path, made_from)
    seal = _seal(contiguous, values, seals)
    header = {"kind": kind, "version": VERSION, "digest": seal, "values": values}
    header |= {"made_from": seals} if seals else {}
    # one key: safetensors writes several in an order of its own, and the same run must give the same bytes
    atomically(path, lambda p: save_file(contiguous, p, metadata={"ltdi": json.dumps(header)}))
    return seal


def write_plain_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """For other programs, without a seal."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomically(Path(path), lambda p: save_file(plain, p, metadata=dict(metadata)))


def read_tensors(path: str | Path, *, kind: str | Schema) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped rather than read where the system allows it, and the metadata of a file of that ``kind``.

    Raises:
        InputError: the file is missing, of another kind or version, not what was written, made from others than the
            files beside it, or not as its schema says.
    """
    path, schema = existing(path), Schema.of(kind)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            header = header_of((file.metadata() or {}).get("ltdi", "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if schema.instead and (what := _never_one(path)):
            raise InputError(f"{path}: {what}, and no file of safetensors; {schema.instead}") from error
        raise schema.refuse(path, f"not a whole safetensors file ({' '.join(str(error).split())})") from error
    if not header:
        raise schema.refuse(path, f"no file of ltdi's, and {schema.kind!r} is needed")
    values, made_from = header.get("values"), header.get("made_from", {})
    if not isinstance(values, dict) or not isinstance(made_from, dict):
        raise schema.refuse(path, ALTERED)
    check_header(path, schema, header.get("kind"), header.get("version"), made_from)
    if _seal(tensors, values, made_from) != header.get("digest"):
        raise schema.refuse(path, ALTERED)
    schema.check_facts(path, values)
    schema.check_tensors(path, tensors)
    return tensors, values


def _seal(tensors: Mapping[str, Tensor], values: Mapping[str, Any], made_from: Mapping[str, str]) -> str:
    return digest(tensors, values, made_from) if made_from else digest(tensors, values)


def _never_one(path: Path) -> str:
    """What a file is that is no safetensors file, and no part of one; "" where it may have been."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start or start[8:9] in (b"{", b""):
        return ""
    if start.startswith(b"PK"):
        return "a zip"
    return "a file of another kind" if b"\0" in start else "a text"
