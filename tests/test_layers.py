"""Imports go down only, by the contracts of pyproject.toml; foreign packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("ltdi/**/*.py"), *ROOT.glob("pipeline/**/*.py")])
DECLARATIONS = ("config.py", "schemas.py")
"""Files of ltdi that declare types of parameters and of exchanged files."""


def test_imports_go_down():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_top_of_the_package_imports_nothing():
    code = "import sys, ltdi; sys.exit(any(name.startswith(('ltdi.', 'torch', 'pandas')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_foreign_packages_stay_where_they_belong(imports_of):
    for file in SOURCES:
        forbidden = {"dvc", "pickle", "yaml", "joblib", "dill", "cloudpickle"}
        if file.relative_to(ROOT).parts[0] == "ltdi":
            forbidden |= {"ruamel", "tqdm", "logging"}
            forbidden |= set() if file.name in DECLARATIONS else {"pydantic"}
            # the command alone talks to a user
            talks = {"cli.py": {"typer", "rich"}, "console.py": {"rich"}}
            forbidden |= {"typer", "rich"} - talks.get(file.name, set())
        assert not forbidden & {name.split(".")[0] for name in imports_of(file)}, file


def test_nothing_is_pickled():
    forbidden = {"torch.load", "torch.save", "np.load", "np.save", "pd.read_pickle"}
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        loads = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        ]
        if loads and all("weights_only=True" in ast.unparse(each) for each in loads):
            calls -= {"torch.load"}
        assert not calls & forbidden and not {call for call in calls if call.endswith(".to_pickle")}, file
