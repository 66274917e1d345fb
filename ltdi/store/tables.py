"""Tables <-> parquet."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ltdi.store.files import write_bytes
from ltdi.store.schema import Schema
from ltdi.store.seals import UNSEALED, VERSION, check_header, header_of, origin_seals, read_sealed, sealed


def write_table(path: str | Path, table: pd.DataFrame, *, kind: str = "", made_from: Iterable[Path] = ()) -> None:
    """Write a table of that ``kind``, or of the file's name; of the files in ``made_from`` that are there, the
    seals."""
    path = Path(path)
    # the seal's place first: only its first occurrence is filled
    header = {"digest": UNSEALED.decode(), "kind": kind or path.stem, "version": VERSION}
    header |= {"made_from": origin_seals(path, made_from)}
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata({"ltdi": json.dumps(header)})
    file = io.BytesIO()
    pq.write_table(arrow, file)
    write_bytes(path, sealed(file.getvalue()))


def read_table(path: str | Path, *, kind: str | Schema = "") -> pd.DataFrame:
    """
    Raises:
        InputError: the file is missing, not a table of that kind, not what was written, or made from others than the
            files beside it.
    """
    path = Path(path)
    schema = Schema.of(kind or path.stem)
    # before parsing: parquet's own checksums are of pages alone, and names and types of columns lie elsewhere
    content = read_sealed(path, schema, "parquet")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        header = header_of((file.metadata.metadata or {}).get(b"ltdi", b"null").decode())
        table = file.read().to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise schema.refuse(path, f"not a whole parquet file ({' '.join(str(error).split())[:200]})") from error
    made_from: Any = header.get("made_from", {})
    check_header(path, schema, header.get("kind"), header.get("version"), made_from)
    schema.check_table(path, table)
    return table
