"""The preset of the paper's own form: its rows are params, its rule ends a flat curve, its table pairs tasks."""

import json

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from bench.harness.report import render
from bench.harness.settings import conf
from bench.tables.paper import BOTH, _is_flat, params_of, write_regimes, write_rows
from ltdi.config import SECTIONS
from pipeline.common import params as parameters

PRESET = conf("paper")
ROWS = [*PRESET["rows"], *(f"{regime}/{method}" for regime in PRESET["regimes"] for method in BOTH)]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_params_that_the_stages_take(row, tmp_path):
    params = params_of("glyphs-5w1s", row, 1, tmp_path)
    with open(tmp_path / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)
    read = parameters.load(tmp_path / "params.yaml", *SECTIONS)
    assert read.seed == 1 and read.tasks.n_way == 5 and read.tasks.n_shot == 1
    if row in PRESET["rows"]:
        assert read.meta.query_loss == 0 and read.meta.weight_loss == 1 and read.diffusion.start_noise == 1


@pytest.mark.parametrize(
    "measures, flat",
    [
        ([0.5], False),
        ([0.5, 0.6, 0.7], False),
        ([0.5, 0.7, 0.7005, 0.6], True),
        ([0.5, 0.7, 0.69, 0.702], False),
        ([0.7, 0.5, 0.6], True),
    ],
)
def test_a_curve_is_flat_when_nothing_new_is_above_the_best(measures, flat):
    assert _is_flat(measures, patience=2, tolerance=0.001) is flat


def lines_of(row, score, error, sampler="equation 1", seed=0, n=50):
    noise = np.random.default_rng(0).normal(0, 0.1, n)  # the same for all: it cancels in pairs
    step = {"step": 150, "seconds": 5.0, "val_score": 0.5, "flat": False, "val_weight_mse": 1e-4, "val_loss_w0": 0.5}
    curve = json.dumps([step, step | {"step": 300, "seconds": 9.0, "val_weight_mse": 5e-5, "flat": True}])
    about = {"setting": "glyphs-5w1s", "steps": 600, "seconds": 9.0, "flat": True, "device": "machine", "commit": "c"}
    about["curve"] = curve
    return pd.DataFrame(
        {"task": range(n), "score": score + noise, "weight_mse": error, "row": row, "sampler": sampler, "seed": seed}
        | about
    )


def test_differences_are_paired_over_tasks(tmp_path):
    lines = pd.concat(
        [lines_of("lvdi", 0.8, 2e-4), lines_of("ltdi", 0.85, 1e-4), lines_of("weight_regression", 0.7, 3e-4, "")]
    )
    write_rows(lines, PRESET, tmp_path)
    rows = pd.read_csv(tmp_path / "paper.csv").set_index("row")
    assert rows.over_lvdi["ltdi"] == pytest.approx(0.05) and rows.over_lvdi_ci95["ltdi"] == pytest.approx(0, abs=1e-9)
    assert rows.over_linear["ltdi"] == pytest.approx(0.15)
    assert rows.ci95["ltdi"] > 0.02
    curves = pd.read_csv(tmp_path / "paper_curves.csv")
    assert curves.groupby("row").val_weight_mse.last().to_dict() == {"ltdi": 5e-5, "lvdi": 5e-5}
    assert all((tmp_path / "figures" / f"paper_{name}.png").is_file() for name in ("time", "sub_chains"))
    text = (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert (
        text.index("Lt-Di (equation 1)") < text.index("Lv-Di (equation 1)") < text.index("linear map to the weights |")
    )


def test_a_result_below_the_linear_map_stands_below_it(tmp_path):
    write_rows(pd.concat([lines_of("ltdi", 0.6, 1e-4), lines_of("weight_regression", 0.7, 3e-4, "")]), PRESET, tmp_path)
    text = (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert text.index("linear map to the weights |") < text.index("Lt-Di (equation 1)")
    assert "-10.00 ± 0.00" in text


def test_regimes_pair_both_methods_by_sampler(tmp_path):
    parts = [
        lines_of(f"few/{method}", score, 1e-4, sampler)
        for method, score in (("lvdi", 0.5), ("ltdi", 0.6))
        for sampler in ("equation 1", "DDIM")
    ]
    write_regimes(pd.concat(parts), PRESET, tmp_path)
    rows = pd.read_csv(tmp_path / "regimes.csv")
    assert list(rows.sampler) == ["equation 1", "DDIM"]
    assert rows.paired_diff.to_numpy() == pytest.approx([0.1, 0.1])
    assert "+10.00 ± 0.00" in render("regimes", rows=rows)
