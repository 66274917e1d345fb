"""``python -m bench run``, ``sharpness`` and ``ways`` as their user runs them, tiny: which rows are where."""

import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench import __main__
from bench.harness import rows, settings
from bench.harness.report import render
from ltdi.evaluation.condition_ablation import CONDITIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, write_params, repository, few_glyphs):
    """A function that runs one of the two programs, and the folder of the long tables."""
    folder = tmp_path_factory.mktemp("bench")
    write_params(folder)
    bench = settings.bench_params()
    bench["budgets"]["tiny"] = {"baselines": ["prototype"], "overrides": {}}
    bench["data"]["glyphs"] = {}
    shutil.copytree(repository / "bench" / "conf", folder / "conf")
    YAML().dump(bench, folder / "conf" / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTDI_STORE", str(folder / "store"))
        patch.setenv("LTDI_DEVICE", "cpu")
        patch.setattr(settings, "ROOT", folder)
        patch.setattr(settings, "CONF", folder / "conf")
        patch.setattr(rows, "RESULTS", folder)

        def call(command: str, *arguments: str):
            base = [] if command == "ways" else ["--base", "noise"]
            common = ["--setting", "glyphs-5w1s", "--budget", "tiny", *base, "--runs", str(folder / "runs")]
            return CliRunner().invoke(__main__.app_of(command), [*common, *arguments])

        yield SimpleNamespace(call=call, folder=folder, table=lambda name: pd.read_csv(folder / name))


@pytest.fixture(scope="module")
def measured(tiny):
    ended = tiny.call("run", "--variant", "lvdi", "--variant", "adapt_5")
    assert ended.exit_code == 0, ended.output
    return tiny


@pytest.mark.slow
def test_a_variant_has_a_row_beside_the_baselines(measured):
    assert all(set(measured.table(f"{name}.csv").budget) == {"tiny"} for name in ("runs", "beside", "choices", "audit"))
    runs = measured.table("runs.csv").set_index(["method", "variant"])
    assert set(runs.index) == {
        ("lvdi", "noise_lvdi"),
        ("ltdi", "noise_adapt_5"),
        ("prototype", "baseline"),
        ("ceiling", "baseline"),
    }
    own, best = runs.loc["lvdi", "noise_lvdi"], runs.loc["prototype", "baseline"]
    assert own.best_baseline == "prototype" and own.paired_diff == pytest.approx(own.accuracy - best.accuracy, abs=2e-6)
    audit = measured.table("audit.csv")
    assert set(audit.variant) == {"noise_lvdi", "noise_adapt_5"} and set(CONDITIONS) < set(audit.weights)
    assert own.tasks == 30 and own.train_classes == 36 and own.ms_batch_1 > own.ms_batch_64 > 0


@pytest.mark.slow
def test_a_variant_is_paired_with_ltdi_on_the_same_tasks(measured):
    beside = measured.table("beside.csv")
    assert set(zip(beside.variant, beside.beside)) == {("noise_lvdi", "ltdi"), ("noise_adapt_5", "ltdi")}
    runs = measured.table("runs.csv").set_index("variant").accuracy
    pair = beside.set_index(["variant", "beside"]).paired_diff
    ltdi = {variant: runs[variant] - pair[variant, "ltdi"] for variant in ("noise_lvdi", "noise_adapt_5")}
    assert ltdi["noise_lvdi"] == pytest.approx(ltdi["noise_adapt_5"], abs=2e-6)


@pytest.mark.slow
def test_what_was_chosen_by_is_on_meta_val(measured):
    choices = measured.table("choices.csv").set_index("variant")
    assert (choices.tasks == 20).all()
    # test-time use trains nothing of its own
    assert len({path.parent for path in (measured.folder / "runs" / "meta_train").glob("*/done")}) == 2


@pytest.mark.slow
def test_sharpness_is_paired_over_tasks(measured):
    assert measured.call("sharpness").exit_code == 0
    table = measured.table("sharpness.csv").set_index("variant")
    assert (
        list(table.index) == ["noise_ltdi", "noise_sam"] and (table.tasks == 30).all() and (table.lambda_max > 0).all()
    )
    assert table.paired_diff["noise_sam"] == pytest.approx(
        table.lambda_max["noise_sam"] - table.lambda_max["noise_ltdi"], abs=1e-4
    )
    assert table.paired_diff["noise_ltdi"] == 0


@pytest.mark.slow
def test_one_run_makes_heads_for_other_tasks(tiny):
    sizes = ("--ways", "2", "--ways", "7", "--shots", "1", "--shots", "3", "--tasks", "40")
    ended = tiny.call("ways", *sizes)
    assert ended.exit_code == 0, ended.output
    table = tiny.table("ways.csv").set_index(["n_way", "n_shot", "method"]).sort_index()
    assert set(table.index) == {(n, k, method) for n in (2, 7) for k in (1, 3) for method in ("ltdi", "prototype")}
    accuracy = table.accuracy
    for n in (2, 7):
        for k in (1, 3):
            row = table.loc[n, k, "ltdi"]
            assert row.paired_diff == pytest.approx(accuracy[n, k, "ltdi"] - accuracy[n, k, "prototype"], abs=1e-5)
        assert accuracy[n, 3, "prototype"] > accuracy[n, 1, "prototype"] > 1 / n
    assert accuracy[2, 1, "prototype"] > accuracy[7, 1, "prototype"]
    text = render("ways", rows=tiny.table("ways.csv"))
    assert text.count("| glyphs-5w1s |") == 4


@pytest.mark.parametrize("program", ["run", "sharpness"])
@pytest.mark.parametrize(
    "option, kind", [("--variant", "variant"), ("--base", "base"), ("--budget", "budget"), ("--setting", "setting")]
)
def test_an_unknown_name_is_one_line(tiny, program, option, kind):
    ended = tiny.call(program, option, "nonsense")
    assert ended.exit_code == 2 and f"{kind} 'nonsense' is not in bench/conf/params.yaml; allowed: " in ended.output
