"""``ltdi compare``: what a run's method and baselines are worth on somebody's own classes."""

import pandas as pd
import pytest
import torch
from command import call, refused
from PIL import Image
from torch.testing import assert_close

import ltdi
from ltdi.datasets import glyphs
from ltdi.inference.comparison import compare, told_of

SIZES = {"n_way": 3, "n_shot": 2, "n_query": 4, "n_tasks": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six classes of glyphs that no run has seen, of nine images each, dark on white."""
    place, images = tmp_path_factory.mktemp("own"), glyphs.load(n_classes=60, seed=7)["meta_test"].images
    for j in range(6):
        (place / f"class {j}").mkdir()
        for i in range(9):
            Image.fromarray((255 - images[20 * j + i, 0]).numpy()).save(place / f"class {j}" / f"{i}.png")
    return place


def test_every_method_is_scored_on_the_same_tasks_and_paired(finished, folder):
    run = ltdi.load(finished.data)
    table = compare(run, folder, **SIZES)
    assert table.method[0] == "ltdi"
    # heads of one number of classes cannot be compared on another
    assert set(table.method) == {"ltdi", "prototype", "ridge", "prototype_sgd"}
    assert table.accuracy[1:].is_monotonic_decreasing and table.accuracy.between(0.4, 1).all()
    assert table.ahead[0] == table.ahead_ci95[0] == 0
    assert_close(table.ahead.tolist(), (table.accuracy[0] - table.accuracy).tolist())
    assert (table.ahead_ci95[1:] < table.ci95[0] + table.ci95[1:]).all()
    pd.testing.assert_frame_equal(compare(run, folder, **SIZES), table)
    assert not compare(run, folder, **SIZES, seed=1).equals(table)


def test_of_as_many_classes_as_the_run_has_all_are_compared(finished, folder):
    table = compare(ltdi.load(finished.data), folder, **SIZES | {"n_way": 5})
    assert {"head_sgd", "mean_head", "nearest_head"} <= set(table.method)


def test_a_class_of_too_few_images_is_asked_for_a_fair_share(finished, folder, tmp_path):
    for j in range(3):
        (tmp_path / "few" / str(j)).mkdir(parents=True)
        for file in sorted((folder / f"class {j}").iterdir())[: 9 if j else 2]:
            (tmp_path / "few" / str(j) / file.name).write_bytes(file.read_bytes())
    table = compare(ltdi.load(finished.data), tmp_path / "few", **SIZES)
    assert torch.tensor(table.accuracy.tolist()).isfinite().all()


@pytest.mark.parametrize(
    ("ahead", "ci95", "told"),
    [(0.02, 0.01, "+0.0200 ± 0.0100: it pays"), (-0.02, 0.01, "take the baseline"), (-0.01, 0.02, "beyond chance")],
)
def test_the_line_says_what_to_do(ahead, ci95, told):
    rows = [
        ["ltdi", 0.5, 0.01, 0.0, 0.0],
        ["ridge", 0.5 - ahead, 0.01, ahead, ci95],
        ["prototype", 0.1, 0.01, 0.4, 0.1],
    ]
    line = told_of(pd.DataFrame(rows, columns=["method", "accuracy", "ci95", "ahead", "ahead_ci95"]))
    assert line.startswith("ltdi − ridge") and told in line


def test_the_command_shows_the_table_and_writes_all_of_it(finished, folder, tmp_path):
    asked = ("--n-way", 3, "--n-shot", 2, "--n-query", 4, "--tasks", 20, "--data", finished.data)
    ended = call("compare", folder, *asked, "--csv", tmp_path / "table.csv")
    assert ended.exit_code == 0, ended.output
    told = " ".join(ended.output.split())
    assert "left out" in told and "head_sgd, mean_head, nearest_head" in told and "the best baseline here" in told
    assert pd.read_csv(tmp_path / "table.csv").method[0] == "ltdi"
    # of what a class has, all that is not learned from is asked, where nothing else is said
    few = call("compare", folder, "--n-way", 5, "--n-shot", 5, "--tasks", 5, "--data", finished.data)
    assert few.exit_code == 0, few.output
    of_ridge = call("compare", folder, *asked, "--method", "ridge")
    assert "ridge − " in of_ridge.output


def test_bad_input_is_one_line(finished, folder, tmp_path):
    def compared(place, *more):
        return call("compare", place, *more, "--data", finished.data)

    refused(compared(tmp_path / "nothing"), "nothing")
    refused(compared(folder, "--n-way", 7), "--n-way 7", "6 classes")
    refused(compared(folder, "--n-way", 1), "--n-way 1")
    refused(compared(folder, "--n-shot", 5, "--n-query", 5), "--n-shot 5 --n-query 5", "9 images")
    refused(compared(folder, "--n-shot", 0), "--n-shot 0")
    refused(compared(folder, "--n-shot", 9), "--n-shot 9", "9 images")
    refused(compared(folder, "--n-query", 5, "--tasks", 1), "--tasks 1")
    refused(compared(folder, "--method", "head_sgd", "--n-way", 3, "--n-query", 5), "head_sgd", "--n-way 5")
    refused(compared(folder, "--csv", finished.data / "model" / "t.csv"), "lies among the files of the run")
    (tmp_path / "one" / "a").mkdir(parents=True)
    for name in ("b", "c"):
        (tmp_path / "one" / name).symlink_to(folder / "class 1")
    (tmp_path / "one" / "a" / "0.png").write_bytes((folder / "class 0" / "0.png").read_bytes())
    refused(compared(tmp_path / "one", "--n-way", 3), "one/a", "holds one image")
