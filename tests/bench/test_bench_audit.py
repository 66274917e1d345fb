"""Audit rows of a finished run of any scenario, by a command."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from bench import __main__
from bench.harness import report, rows
from bench.probes import audit
from ltdi.evaluation.condition_ablation import CONDITIONS, RIGHT


def test_a_finished_runs_audit_is_kept_and_told(finished, tmp_path, monkeypatch):
    for module in (report, rows):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(audit, "TASKS", 20)
    ended = CliRunner().invoke(__main__.app_of("audit"), [str(finished.data), "--setting", "a run", "--seed", "3"])
    assert ended.exit_code == 0, ended.output
    kept = pd.read_csv(tmp_path / "audit.csv").set_index("weights")
    assert set(CONDITIONS) <= set(kept.index) and set(kept.setting) == {"a run"} and set(kept.seed) == {3}
    assert kept.paired_diff[RIGHT] == 0 and kept.accuracy[RIGHT] > kept.accuracy["none"]
    assert "| a run | Lt-Di | default | own | 3 |" in (tmp_path / "audit.md").read_text()


@pytest.mark.parametrize(
    "budget, said", [("own", "{folder}"), ("huge", "budget 'huge' is not in bench/conf/params.yaml")]
)
def test_what_is_no_run_or_no_budget_is_told(tmp_path, budget, said):
    options = [str(tmp_path), "--setting", "none", "--budget", budget]
    ended = CliRunner().invoke(__main__.app_of("audit"), options)
    assert ended.exit_code == 2 and ended.output.count("\n") == 1 and said.format(folder=tmp_path) in ended.output
