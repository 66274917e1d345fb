"""``ltdi``, or ``python -m ltdi``."""

import os
import signal


def main() -> None:
    """The command; an interrupt during its imports, which take seconds, ends it without a traceback."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:  # closed: else a file that is opened would get its number, and what is said
            os.open(os.devnull, os.O_RDWR)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ltdi.cli import app

    app()


if __name__ == "__main__":
    main()
