"""What is cached has another name once what made it is another: an input, or code that is reached by imports."""

import subprocess
import sys

import pytest
import torch

from ltdi.store import code_digest
from ltdi.store.code_digest import closure, code_of, imports, name_of

MODULES = {
    "__init__.py": "",
    "base.py": "ONE = 1\n",
    "alone.py": "import math\nfrom pathlib import Path\n",
    "left.py": "from ltdi.base import ONE\n",
    "right.py": "from ltdi import base, alone\n",
    "late.py": "def f():\n    import ltdi.left\n    return ltdi.left\n",
    "ring.py": "from ltdi.circle import X\n",
    "circle.py": "X = 1\nif X:\n    from ltdi import ring\n",
    "parts/__init__.py": "from ltdi.parts.first import A\n",
    "parts/first.py": "A = 1\n",
    "parts/second.py": "from ltdi.parts import A\n",
}


def forget():
    code_of.cache_clear()
    code_digest._file.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package of the same name, whose modules can be edited."""
    folder = tmp_path / "ltdi"
    for name, source in MODULES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    monkeypatch.setattr(code_digest, "PACKAGE", folder)
    forget()
    yield folder
    forget()


def names_in(module):
    return {name.removeprefix("ltdi.") for name, _ in closure(module)}


# --- what a module reaches


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("ltdi.base", {"base"}),
        ("ltdi.alone", {"alone"}),
        ("ltdi.left", {"left", "base"}),
        ("ltdi.right", {"right", "base", "alone"}),
        ("ltdi.late", {"late", "left", "base"}),
        ("ltdi.ring", {"ring", "circle"}),
        ("ltdi.circle", {"ring", "circle"}),
        ("ltdi.parts", {"parts", "parts.first"}),
        ("ltdi.parts.second", {"parts.second", "parts", "parts.first"}),
        ("numpy", set()),
        ("ltdi.nowhere", set()),
    ],
)
def test_a_closure_is_all_that_a_module_reaches(package, module, expected):
    assert names_in(module) == expected


def test_imports_are_the_modules_and_not_what_is_in_them(package):
    assert imports(package / "right.py") == ["ltdi.alone", "ltdi.base"]
    assert imports(package / "left.py") == ["ltdi.base"]
    assert imports(package / "alone.py") == []


def test_trajectories_are_made_by_scores_and_tasks_and_by_no_body():
    reached = names_in("ltdi.trajectories.collection")
    made_by = {"trajectories.collection", "learners.fitting", "utils.metrics", "tasks.base", "utils.seeding"}
    assert made_by | {"initialization.closed_form", "learners.weight_space"} <= reached
    assert not [name for name in reached if name.split(".")[0] in ("datasets", "methods", "scenarios")]
    assert not {"bodies.conv4", "bodies.resnet12", "bodies.timm_body", "bodies.embedding"} & reached


def test_features_are_made_by_the_body_and_by_no_task():
    reached = names_in("ltdi.bodies.embedding")
    assert reached.isdisjoint({"tasks.base", "utils.metrics", "tasks.class_tasks", "learners.base"})
    assert "utils.seeding" in names_in("ltdi.bodies.pretraining")


@pytest.mark.slow
def test_the_closure_is_what_python_loads():
    command = (
        "import sys, ltdi.trajectories.collection; print(*(name for name in sys.modules if name.startswith('ltdi.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == {name for name, _ in closure("ltdi.trajectories.collection")}


def test_no_module_hides_what_it_imports():
    """Relative imports would not be seen."""
    for file in code_digest.PACKAGE.rglob("*.py"):
        assert "from ." not in file.read_text(encoding="utf-8"), file


# --- names


def named(*inputs, kind="features", code=("ltdi.left",)):
    forget()
    return name_of(kind, *inputs, code=code)


@pytest.mark.parametrize(
    ("edited", "changes"), [("left.py", True), ("base.py", True), ("alone.py", False), ("parts/first.py", False)]
)
def test_a_name_changes_with_what_is_reached_and_with_nothing_else(package, edited, changes):
    before = named()
    (package / edited).write_text(MODULES[edited] + "# edited\n")
    assert (named() != before) == changes
    (package / edited).write_text(MODULES[edited])
    assert named() == before


def test_a_module_that_is_newly_imported_counts_from_then_on(package):
    (package / "left.py").write_text("from ltdi.base import ONE\nimport ltdi.alone\n")
    before = named()
    (package / "alone.py").write_text("")
    assert named() != before


def test_code_that_moves_to_another_module_has_another_name(package):
    before = named(code=("ltdi.base",))
    (package / "base.py").rename(package / "moved.py")
    assert named(code=("ltdi.moved",)) != before


def test_inputs_and_the_kind_count(package):
    w = torch.zeros(2)
    names = [named(*each) for each in ((), (1,), (2,), (1, 2), (w,), (w + 1,), (w.double(),), ({"a": w},), ({"b": w},))]
    names += [named(1, kind="body"), named(1, code=("ltdi.left", "ltdi.alone")), named(1, code=())]
    assert len(set(names)) == len(names)


def test_the_order_of_modules_and_one_named_twice_make_no_difference(package):
    expected = named(code=("ltdi.left", "ltdi.alone"))
    assert named(code=("ltdi.alone", "ltdi.left")) == expected
    assert named(code=["ltdi.left", "ltdi.alone", "ltdi.left"]) == expected


def test_where_the_package_lies_makes_no_difference(package, tmp_path, monkeypatch):
    before = named()
    package.rename(tmp_path / "elsewhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "other" / "ltdi")
    monkeypatch.setattr(code_digest, "PACKAGE", tmp_path / "other" / "ltdi")
    assert named() == before
