"""The command ``ltdi`` as its user runs it, for the tests of it."""

from typer.testing import CliRunner

from ltdi.cli import app


def call(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refused(ended, *parts):
    """It ended with one line that says these parts."""
    assert ended.exit_code == 2
    assert ended.output.startswith("ltdi ") and ended.output.count("\n") == 1, ended.output
    for part in parts:
        assert str(part) in ended.output
