"""``ltdi``, or ``python -m ltdi``."""

import signal


def main() -> None:
    """The command; an interrupt during its imports, which take seconds, ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ltdi.cli import app
    from ltdi.devices import deterministic

    deterministic()
    app()


if __name__ == "__main__":
    main()
