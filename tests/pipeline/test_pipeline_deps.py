"""dvc.yaml says all that a stage depends on, and no more: DVC itself sees neither imports nor file reads."""

import ast
import shutil
from itertools import product
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ltdi.config import SECTIONS
from ltdi.methods.registry import METHODS
from ltdi.scenarios import SCENARIOS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# no logic in the first three; the registries change with every method or scenario: the run's own is a dep by its name
NOT_TRACKED = {
    "ltdi/__init__.py",
    "pipeline/__init__.py",
    "ltdi/methods/generators/__init__.py",
    "ltdi/methods/__init__.py",
    "ltdi/methods/registry.py",
    "ltdi/scenarios/__init__.py",
    "ltdi/config.py",
}
STALE = {
    "ltdi/utils/nn.py": list(STAGES),
    "ltdi/store/artifacts.py": list(STAGES),
    "ltdi/datasets/glyphs.py": list(STAGES)[:-1],
    "ltdi/tasks/class_tasks.py": list(STAGES),
    "ltdi/bodies/conv4.py": list(STAGES),
    "ltdi/learners/two_layer_head.py": list(STAGES)[2:],
    "ltdi/meta_learning/reptile.py": list(STAGES)[2:-1],
    "ltdi/initialization/closed_form.py": list(STAGES)[2:],
    "ltdi/trajectories/collection.py": list(STAGES)[2:],
    "ltdi/diffusion/process.py": ["meta_train", "generate_weights"],
    "ltdi/methods/common/trained.py": ["meta_train", "generate_weights"],
    "ltdi/methods/baselines/ridge.py": ["meta_train", "generate_weights"],
    "ltdi/methods/generators/ltdi.py": ["meta_train", "generate_weights"],
    "ltdi/methods/generators/lvdi.py": [],
    "ltdi/scenarios/few_shot.py": list(STAGES)[:3],
    "ltdi/scenarios/zero_shot.py": [],
    "ltdi/inference/head.py": [],
    "ltdi/evaluation/sharpness.py": [],
    "ltdi/cli.py": [],
    "pipeline/figures.py": ["evaluate"],
    "pipeline/common/stage.py": list(STAGES),
}
"""What a changed file makes stale by its own, of a run of few_shot and ltdi."""
every_stage = pytest.mark.parametrize("stage", STAGES)


def file_of(cls: type) -> str:
    return cls.__module__.replace(".", "/") + ".py"


def files_of_others(scenario: str, method: str) -> set[str]:
    """Those of the methods and scenarios that a run does not use."""
    methods = {file_of(cls) for name, cls in METHODS.items() if name != method}
    return methods | {file_of(type(each)) for name, each in SCENARIOS.items() if name != scenario}


def source_deps(stage: str, scenario: str, method: str) -> set[str]:
    names = {"${scenario.name}": scenario, "${method.name}": method}
    deps = STAGES[stage]["deps"]
    for variable, name in names.items():
        deps = [dep.replace(variable, name) for dep in deps]
    return {dep for dep in deps if dep.startswith(("ltdi", "pipeline"))}


def files_under(dep: str) -> set[str]:
    path = ROOT / dep
    assert path.exists(), f"{dep} is not there"
    return {str(file.relative_to(ROOT)) for file in (path.rglob("*.py") if path.is_dir() else [path])}


def outs_of(stage: str) -> set[str]:
    outs = [out for kind in ("outs", "metrics", "plots") for out in STAGES[stage].get(kind, [])]
    return {next(iter(out)) if isinstance(out, dict) else out for out in outs}


@pytest.fixture(scope="module")
def closure(imports_of):
    """The source files that importing a module executes."""

    def files_of(name: str) -> list[str]:
        parts = name.split(".")
        packages = ["/".join(parts[:j]) + "/__init__.py" for j in range(1, len(parts) + 1)]
        return [file for file in (*packages, "/".join(parts) + ".py") if (ROOT / file).is_file()]

    def closure(name: str) -> set[str]:
        reached, waiting = set(), files_of(name)
        while waiting:
            file = waiting.pop()
            if file not in reached:
                reached.add(file)
                # what the package offers at its top is imported when it is used
                for other in imports_of(ROOT / file) if file != "ltdi/__init__.py" else ():
                    if other.split(".")[0] in ("ltdi", "pipeline"):
                        waiting += files_of(other)
        return reached

    return closure


@every_stage
def test_deps_cover_the_imports(stage, closure):
    reached = closure(f"pipeline.{stage}")
    for scenario, method in product(SCENARIOS, METHODS):
        needed = reached - NOT_TRACKED - files_of_others(scenario, method)
        tracked = set().union(*map(files_under, source_deps(stage, scenario, method)))
        assert needed <= tracked, f"{scenario}, {method}, missing in deps: {sorted(needed - tracked)}"


@every_stage
def test_of_every_folder_something_is_imported(stage, closure):
    reached = closure(f"pipeline.{stage}")
    for dep in source_deps(stage, "few_shot", "ltdi"):
        assert files_under(dep) & reached, f"{dep} is never imported"


@pytest.mark.parametrize("file", STALE)
def test_a_changed_file_makes_its_stages_stale_and_no_others(file):
    assert (ROOT / file).is_file()
    stale = [
        stage for stage in STAGES if any(file in files_under(dep) for dep in source_deps(stage, "few_shot", "ltdi"))
    ]
    assert stale == STALE[file]


def test_evaluate_knows_no_method(closure):
    assert not {file for file in closure("pipeline.evaluate") if file.startswith("ltdi/methods")}


@every_stage
def test_params_are_those_that_the_stage_loads(stage):
    tree = ast.parse((ROOT / "pipeline" / f"{stage}.py").read_text(encoding="utf-8"))
    loads = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "parameters.load"
    ]
    assert [[ast.literal_eval(name) for name in load.args[1:]] for load in loads] == [
        [name.removesuffix(".${method.name}") for name in STAGES[stage]["params"]]
    ]


@every_stage
def test_the_command_is_the_module_of_the_stage(stage):
    several = stage in ("prepare_tasks", "collect_trajectories", "meta_train")  # processes may share these
    launcher = r"\${LTDI_LAUNCH:-python}" if several else "python"
    assert STAGES[stage]["cmd"] == f"{launcher} -m pipeline.{stage}"


def test_params_yaml_has_the_known_sections():
    assert list(YAML(typ="safe").load(ROOT / "params.yaml")) == list(SECTIONS)


@every_stage
def test_a_stage_reads_only_its_deps_and_writes_its_outs(stage, finished, run_stage, tmp_path):
    for dep in STAGES[stage]["deps"]:
        if dep.startswith("data/"):
            source, target = finished.data.parent / dep, tmp_path / "alone" / dep
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    data = tmp_path / "alone" / "data"
    before = set(data.rglob("*"))

    run_stage(stage, finished.params, data)

    written = {file for file in set(data.rglob("*")) - before if file.is_file()}
    outs = [tmp_path / "alone" / out for out in outs_of(stage)]
    assert all(out.exists() for out in outs)
    stray = [file for file in written if not any(file == out or out in file.parents for out in outs)]
    assert not stray


def test_two_runs_write_the_same_bytes(finished, run_stage, write_params, tmp_path):
    """Else a stage that DVC runs again would make all later ones stale."""
    params = write_params(tmp_path / "again")
    for stage in STAGES:
        run_stage(stage, params, tmp_path / "again")
    timed = {"model/metrics.json", "weights/timing.parquet", "results/metrics.json"}
    files = {str(file.relative_to(finished.data)) for file in finished.data.rglob("*") if file.is_file()} - timed
    different = [
        file for file in files if (finished.data / file).read_bytes() != (tmp_path / "again" / file).read_bytes()
    ]
    assert not sorted(different)
