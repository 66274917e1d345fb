"""Exchanged files: safetensors, parquet and JSON, with kind, version, digest and provenance, written atomically.

No pickle is read or written.
"""

from ltdi.store.artifacts import (
    read_json,
    read_table,
    read_tensors,
    write_json,
    write_plain_tensors,
    write_table,
    write_tensors,
)
from ltdi.store.cache import Cache
from ltdi.store.digests import digest
from ltdi.store.files import link_or_copy, writable, write_bytes, write_text, write_tsv
from ltdi.store.schemas import Facts, Schema

__all__ = [
    "Cache",
    "Facts",
    "Schema",
    "digest",
    "link_or_copy",
    "read_json",
    "read_table",
    "read_tensors",
    "writable",
    "write_bytes",
    "write_json",
    "write_plain_tensors",
    "write_table",
    "write_tensors",
    "write_text",
    "write_tsv",
]
