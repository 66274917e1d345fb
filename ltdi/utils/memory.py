"""What would not fit into this machine's memory is refused before it is asked for: a system that promises more than it
has ends programs later, and others with them."""

import os
from functools import cache
from pathlib import Path

from ltdi.utils.errors import InputError

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container says how much it may have."""


@cache
def there_is() -> int:
    """Bytes of memory that this machine, or the container that the program runs in, has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in LIMITS:
        try:
            limits.append(int(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # not a container, or "max"
            continue
    return min(limits)


def check_fits(n_numbers: int, what: str, remedy: str) -> None:
    """That so many numbers of four bytes fit into memory.

    Raises:
        InputError: they do not; ``what`` they are, and what to do.
    """
    if 4 * n_numbers > there_is():
        raise InputError(
            f"{what} would take {_gigabytes(4 * n_numbers)} GB of memory, and there are {_gigabytes(there_is())};"
            f" {remedy}"
        )


def _gigabytes(n_bytes: int) -> str:
    # in integers, because a float does not hold every number that a file of params may
    return str(n_bytes // 2**30) if n_bytes < 2**60 else f"2^{n_bytes.bit_length() - 31}"
