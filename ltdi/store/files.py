"""Files as bytes: written whole or not at all, and what the system refuses in one line."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from ltdi.utils.errors import InputError, refused_by_system

_UMASK = os.umask(0)
os.umask(_UMASK)


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """
    Raises:
        InputError: the system refuses, e.g. because the disk is full.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_UMASK)  # safetensors writes files that only their owner can read
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except SafetensorError as error:
        # it tells the number of a system error in its text alone
        if number := re.search(r"os error (\d+)", str(error)):
            code = int(number[1])
            raise refused_by_system(OSError(code, os.strerror(code)), path) from error
        raise InputError(f"{path}: cannot be written as safetensors ({error}); keep less in one file") from error
    except OSError as error:
        raise refused_by_system(error, path) from error


def writable(path: str | Path) -> Path:
    """Where a file goes that is wanted at ``path``: where a link leads, which so stays. Tried before long work; nothing
    of the attempt stays.

    Raises:
        InputError: it could not.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: a folder or no regular file; name a file")
        path.with_name(f".{path.name}").exists()  # a name that is too long raises here
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        there = target.absolute().parent
        while not there.exists() and not there.is_symlink():
            there = there.parent
        if target.is_symlink() or not there.exists():
            raise InputError(f"{path}: a link that leads nowhere; remove it, or name another place")
        tempfile.TemporaryFile(dir=there).close()
        return target
    except OSError as error:
        raise refused_by_system(error, path) from error


def write_text(path: str | Path, text: str) -> None:
    atomically(Path(path), lambda p: p.write_text(text, encoding="utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    atomically(Path(path), lambda p: p.write_bytes(content))


def write_tsv(path: str | Path, table: pd.DataFrame) -> None:
    """For people and plots: no stage reads it back, and it has no seal."""
    atomically(Path(path), lambda p: table.to_csv(p, sep="\t", index=False, lineterminator="\n"))


def existing(path: str | Path) -> Path:
    """
    Raises:
        InputError: there is no such file.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; run the stage that writes it, or `dvc repro`")
    except OSError as error:
        raise refused_by_system(error, path) from error
    return path


def read_bytes(path: str | Path) -> bytes:
    """
    Raises:
        InputError: the file is missing, or the system refuses.
    """
    try:
        return existing(path).read_bytes()
    except OSError as error:
        raise refused_by_system(error, path) from error


def link_or_copy(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` without a second copy on disk where the file system allows it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    except OSError as error:
        raise refused_by_system(error, target) from error
    try:
        os.link(source, target)
    except OSError:
        atomically(target, lambda p: shutil.copyfile(source, p))
