"""What a killed run should find again."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ltdi.store.artifacts import read_tensors, write_tensors
from ltdi.utils.errors import InputError

OF = "of"
"""The name under which a file says what it is of."""


class Cache:
    """A content-addressed folder for what a killed run should find again.

    It lies outside the outputs of any stage, because DVC deletes those before the stage runs.
    Its place is ``LTDI_STORE``, or the user's cache folder.

    A file says itself what it is ``of``, the key where nothing else is given: one that was put in another's place is
    not what was kept.
    """

    def __init__(self, kind: str) -> None:
        root = os.environ.get("LTDI_STORE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltdi"
        self.kind, self.folder = kind, Path(root).absolute() / kind

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def keep(
        self,
        key: str,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
        *,
        of: str = "",
        finite: bool = True,
    ) -> Path:
        write_tensors(self.path(key), tensors, {**metadata, OF: of or key}, kind=self.kind, finite=finite)
        return self.path(key)

    def find(self, key: str, *, of: str = "") -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """The file under ``key`` and what it holds, or None if it is missing or not what was kept."""
        try:
            tensors, metadata = read_tensors(self.path(key), kind=self.kind)
        except InputError:
            return None
        return (self.path(key), tensors, metadata) if metadata.pop(OF, None) == (of or key) else None
