"""Tensors <-> safetensors, tables <-> parquet, facts <-> JSON: sealed, checked and written whole. Knows no machine
learning.

One rule for every file that is exchanged: it carries its kind, its version, the seals of the files that it was made
from, and a seal of its own, the digest of all this and of its content. Whoever reads it checks them: a file that was
altered, is of another kind, or does not belong to the files beside it is an error of one line. A reader never sees a
half-written file: everything is written to a temporary name in the same folder and renamed. No pickle is read or
written.
"""

from ltdi.store.cache import Cache
from ltdi.store.digests import digest
from ltdi.store.files import link_or_copy, writable, write_bytes, write_text, write_tsv
from ltdi.store.json import read_any_json, read_json, write_json
from ltdi.store.plain import UNPACKING, File, cannot_unpack, content_of, read_rows, text_of
from ltdi.store.schema import Facts, Schema
from ltdi.store.tables import read_table, write_table
from ltdi.store.tensors import read_tensors, write_plain_tensors, write_tensors

__all__ = [
    "Cache",
    "Facts",
    "File",
    "Schema",
    "UNPACKING",
    "cannot_unpack",
    "content_of",
    "digest",
    "link_or_copy",
    "read_any_json",
    "read_json",
    "read_rows",
    "read_table",
    "read_tensors",
    "text_of",
    "writable",
    "write_bytes",
    "write_json",
    "write_plain_tensors",
    "write_table",
    "write_tensors",
    "write_text",
    "write_tsv",
]
