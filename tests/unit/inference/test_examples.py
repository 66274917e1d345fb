"""Every example runs as it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ltdi.cli import app

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs(file, finished, tmp_path):
    assert len(file.read_text().splitlines()) <= 40
    assert CliRunner().invoke(app, ["example", "--data", str(finished.data)]).exit_code == 0
    env = os.environ | {"PYTHONPATH": str(file.parents[1])}
    ended = subprocess.run([sys.executable, file], cwd=finished.data.parent, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
