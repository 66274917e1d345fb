"""One run at a time in a folder: two at once would mix their files."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ltdi.utils.errors import InputError, refused_by_system

NAME = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, a file that says the number of the process. The system gives it up with the process, so
    that a killed one leaves nothing to be removed.

    Raises:
        InputError: another process holds it, the folder cannot be written to, or what has the lock's name is a link or
            a file of others.
    """
    try:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = _held(folder)
    except OSError as error:
        raise refused_by_system(error, folder) from error
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)
        os.close(file)
        with suppress(OSError):  # where something was written
            for each in new:
                each.rmdir()


def _held(folder: Path) -> int:
    path = folder / NAME
    while True:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _of_others(path)
        # a link that was put there meanwhile is not followed, a pipe not waited for
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 20).decode(errors="replace").strip() or "another"
            os.close(file)
            raise InputError(
                f"{folder}: process {holder} runs a stage here; wait for it, or name another folder with --data"
            ) from error
        # who held it before may have removed it between our opening and locking
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            if os.fstat(file).st_nlink > 1 or not re.fullmatch(rb"(\d+\n)?", os.read(file, 20)):
                os.close(file)
                raise _of_others(path)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            return file
        os.close(file)


def _of_others(path: Path) -> InputError:
    return InputError(
        f"{path}: a link, or no file that a stage wrote, where a stage puts its lock; move it to another place, or name"
        " another folder with --data"
    )
