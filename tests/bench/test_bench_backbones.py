"""The table of other bodies: what it reads of its rows, and that its plan is one of valid params."""

import pandas as pd
import pytest
from ruamel.yaml import YAML

from bench.harness.report import render
from bench.harness.settings import bench_params, cell_params, override
from pipeline.common.params import load


@pytest.mark.parametrize("setting", bench_params()["backbones"]["settings"])
def test_the_plan_is_one_of_valid_params(setting, tmp_path):
    bench = bench_params()
    plan = bench["backbones"]
    for name, body in plan["bodies"].items():
        for method in ("baselines", *plan["methods"]):
            params = cell_params(bench, setting, method, bench["budgets"][plan["budget"]])
            params = override(params, plan["shared"] | body)
            with open(tmp_path / "params.yaml", "w", encoding="utf-8") as file:
                YAML().dump(params, file)
            assert load(tmp_path / "params.yaml", *params).body.name.split("/")[-1].startswith(name)


def test_seeds_are_pooled_and_what_is_missing_is_said():
    common = {"setting": "omniglot-5w1s", "body": "resnet18", "tasks": 50, "device": "a machine"}
    rows = [
        common | {"seed": 0, "method": "ltdi", "accuracy": 0.9, "ci95": 0.03, "best_baseline": "ridge"},
        common | {"seed": 1, "method": "ltdi", "accuracy": 0.8, "ci95": 0.04, "best_baseline": "prototype"},
        common | {"seed": 0, "method": "ridge", "accuracy": 0.7, "ci95": 0.01},
    ]
    table = pd.DataFrame(rows).assign(paired_diff=[0.02, -0.04, None], paired_ci95=[0.003, 0.004, None])
    lines = render("backbones", rows=table).splitlines()
    assert "| Lt-Di | 85.00 ± 2.50 (-1.00 ± 0.25, prototype/ridge) \\| 98.82 |" in lines
    assert "| ridge | 70.00 ± 1.00 |" in lines and "| LLO-VAE | missing |" in lines
