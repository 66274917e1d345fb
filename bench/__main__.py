"""``python -m bench <command>`` of conf/commands.yaml; each command lists its options with ``--help``."""

import sys
from importlib import import_module

import typer

from bench.harness.settings import conf
from ltdi.utils.console import one_line_errors

COMMANDS = conf("commands")


def app_of(command: str) -> typer.Typer:
    """The command as a program, whose user's mistakes are one line; its module alone is imported."""
    module, _, function = COMMANDS[command][0].partition(":")
    app = typer.Typer(add_completion=False)
    app.command()(one_line_errors(f"bench {command}")(getattr(import_module(f"bench.{module}"), function)))
    return app


def main() -> None:
    command, *arguments = sys.argv[1:] or [""]
    if command not in COMMANDS:
        lines = "".join(f"\n  {name:20}{what}" for name, (_, what) in COMMANDS.items())
        print(f"usage: python -m bench <command> [options]\n{lines}")
        sys.exit(0 if command in ("", "--help") else 2)
    app_of(command)(arguments, prog_name=f"python -m bench {command}")


if __name__ == "__main__":
    main()
