"""What `python -m bench report` writes, and the long tables that it reads."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from bench.harness import report, rows
from bench.harness.report import render
from bench.harness.settings import bench_params
from bench.tables import few_shot
from ltdi.store import write_json, write_table


def ablation(runs, pairs=None, sharpness=(), components="") -> str:
    runs = pd.DataFrame(runs)
    return render(
        "ablation",
        runs=runs,
        beside=beside() if pairs is None else pairs,
        sharpness=pd.DataFrame(sharpness),
        components=components,
    )


@pytest.fixture
def bench():
    return bench_params()


def row(**changes) -> dict:
    values = {
        "setting": "omniglot-5w1s",
        "method": "ltdi",
        "variant": "ltdi",
        "budget": "cpu",
        "train_classes": 800,
        "seed": 0,
        "tasks": 600,
        "accuracy": 0.99,
        "ci95": 0.001,
    }
    return (
        values
        | {
            "best_baseline": "prototype",
            "paired_diff": 0.002,
            "paired_ci95": 0.001,
            "ms_batch_1": 5.0,
            "seconds_meta_train": 60,
            "device": "cpu",
        }
        | changes
    )


def beside(**changes) -> pd.DataFrame:
    values = {
        "setting": "glyphs-5w1s",
        "method": "lvdi",
        "variant": "noise_lvdi",
        "budget": "cpu",
        "train_classes": 300,
        "seed": 0,
        "beside": "ltdi",
    }
    return pd.DataFrame([values | {"paired_diff": -0.02, "paired_ci95": 0.001} | changes])


def test_variants_of_another_base_stand_beside_its_ltdi(bench):
    noise = {"setting": "glyphs-5w1s", "train_classes": 300}
    runs = pd.DataFrame([row(), row(**noise, variant="noise_ltdi"), row(**noise, method="lvdi", variant="noise_lvdi")])
    pairs = pd.concat([beside(), beside(seed=1, paired_diff=-0.04)])
    first, second = ablation(runs, pairs).split("## From noise")
    assert "| omniglot-5w1s | 800 | cpu | ltdi |" in first and "glyphs" not in first
    (line,) = [line for line in second.splitlines() if "| lvdi | lvdi |" in line]
    assert "| -3.000 ± 0.071, sd 1.41 |" in line and "trajectories.initialization = shared" in second


def test_variants_are_compared_within_a_budget(bench):
    place = {"setting": "glyphs-5w1s", "train_classes": 300, "method": "lvdi", "variant": "lvdi"}
    runs = pd.DataFrame([row(**place), row(**place, budget="ablation", accuracy=0.97, paired_diff=-0.001)])
    pairs = pd.concat(
        beside(variant="lvdi", budget=name, paired_diff=each) for name, each in (("cpu", 0.01), ("full", 1))
    )
    first, second = [line for line in ablation(runs, pairs).splitlines() if "| lvdi |" in line]
    assert "| ablation | lvdi | lvdi | 97.00" in first and "| -0.100 ± 0.100 (prototype) |  |" in first
    assert "| cpu | lvdi | lvdi | 99.00" in second and "| +1.000 ± 0.100 |" in second


def test_a_row_replaces_its_older_self(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    rows.add("runs.csv", [row(), row(seed=1)])
    rows.add("runs.csv", [row(accuracy=0.98)])
    rows.add("runs.csv", [row(budget="full", accuracy=0.97)])
    table = pd.read_csv(tmp_path / "runs.csv")
    assert list(table.columns) == rows.COLUMNS["runs.csv"]
    for other in ("lvdi", "ltdi", "ltdi"):
        rows.add("beside.csv", [row(beside=other)])
    assert pd.read_csv(tmp_path / "beside.csv").beside.tolist() == ["ltdi", "lvdi"]
    assert list(zip(table.budget, table.seed, table.accuracy)) == [
        ("cpu", 0, 0.98),
        ("cpu", 1, 0.99),
        ("full", 0, 0.97),
    ]


def test_two_programs_that_add_rows_at_once_lose_none(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: rows.add("runs.csv", [row(seed=seed)]), range(24)))
    assert rows.read("runs.csv").seed.tolist() == list(range(24))


def test_without_rows_nothing_is_written(tmp_path, monkeypatch):
    for module in (rows, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(few_shot, "CELLS", tmp_path)
    report.main()
    assert not list(tmp_path.iterdir())


def test_the_tables_of_the_repository_are_those_of_its_rows(repository, tmp_path, monkeypatch):
    for file in (repository / "bench" / "results").glob("*.[cmt][sd]*"):
        shutil.copy(file, tmp_path)
    for module in (rows, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(few_shot, "CELLS", tmp_path / "none")
    report.main()
    for file in tmp_path.glob("*.md"):
        assert file.read_text() == (repository / "bench" / "results" / file.name).read_text(), file.name


def test_tables_pool_seeds_and_say_what_is_missing(bench):
    runs = pd.DataFrame(
        [
            row(accuracy=0.98, paired_diff=0.001),
            row(seed=1, accuracy=0.99, paired_diff=0.003),
            row(method="prototype", variant="baseline", accuracy=0.9),
        ]
    )
    bar = render("omniglot", runs=runs)
    # the interval of a mean of two seeds, each ± 0.1: √(0.1² + 0.1²)/2
    assert "98.50 ± 0.07, sd 0.71 over 2 seeds" in bar and "+0.200 ± 0.071 (prototype)" in bar
    assert "missing" in bar and "97.12" in bar and "90.00 ± 0.10" in bar
    assert "| cpu | ltdi | ltdi | 98.50" in ablation(runs)
    full = [row(budget="full", accuracy=0.97), row(budget="full", variant="baseline", method="ridge")]
    others = pd.DataFrame([*full, row(budget="quick", accuracy=0.5)])
    first, _, apart = render("omniglot", runs=pd.concat([runs, others])).partition("## The full budget")
    assert first.strip() == bar.strip() and "97.00 ± 0.10" in apart and "| ridge |" in apart and "reported" not in apart


def test_sharpness_is_told_beside_ltdis_heads():
    rows = [
        {
            "setting": "glyphs-5w1s",
            "variant": f"noise_{name}",
            "budget": "cpu",
            "seed": seed,
            "tasks": 500,
            "lambda_max": value,
            "ci95": 0.02,
            "paired_diff": value - 0.5,
            "paired_ci95": 0.01,
        }
        for seed in (0, 1)
        for name, value in (("ltdi", 0.5), ("sam", 0.25))
    ]
    text = ablation([row()], sharpness=rows)
    assert "| noise_sam | 0.2500 ± 0.0141 | -0.2500 ± 0.0071 | 2 | 1000 |" in text
    assert "| noise_ltdi | 0.5000 ± 0.0141 |  | 2 | 1000 |" in text


def test_the_components_are_kept_where_their_cells_are_not(tmp_path, bench):
    assert report._components(tmp_path / "ablation.md") == ""
    (tmp_path / "ablation.md").write_text(ablation([row()], components="C1: as measured\n"))
    assert report._components(tmp_path / "ablation.md") == "C1: as measured\n"


# --- what `make bench` writes


def _audited(accuracy: float, difference: float) -> dict:
    values = {"tasks": 200, "accuracy": accuracy, "ci95": 0.01, "paired_diff": difference, "paired_ci95": 0.02}
    return values | {"device": "cpu", "commit": "abc"}


@pytest.fixture
def measured(tmp_path, monkeypatch, bench):
    """Two cells of one setting, another setting whose data are missing."""
    monkeypatch.setattr(few_shot, "CELLS", tmp_path)

    def write(method: str, scores: dict[str, list[list[float]]], ms: float) -> None:
        folder = tmp_path / "glyphs-5w1s" / method
        frames = [
            pd.DataFrame({"method": name, "task": range(len(values)), "score": values, "seed": seed})
            for name, seeds in scores.items()
            for seed, values in enumerate(seeds)
        ]
        write_table(folder / "per_task.parquet", pd.concat(frames))
        times = [
            {
                "name": name,
                "batch": n,
                "adapts": False,
                "ms_embed": 1.0,
                "ms_generate": ms / n,
                "ms_query": 2.0,
                "seed": 0,
            }
            for name in scores
            for n in (1, 64)
        ]
        write_table(folder / "timing.parquet", pd.DataFrame(times))
        audit = {"setting": "glyphs-5w1s", "method": next(iter(scores)), "variant": "few_shot"}
        audit |= {"budget": "quick", "seed": 0}
        kinds = {"right": (0.7, 0.0), "another task's": (0.2, -0.5), "none": (0.69, -0.01)}
        audits = [audit | {"weights": name, **_audited(*values)} for name, values in kinds.items()]
        write_table(folder / "audit.parquet", pd.DataFrame(audits))
        facts = {
            "train_classes": 300,
            "ceiling": {"score": 0.99, "ci95": 0.0},
            "val_score": 0.9,
            "parameters": 5,
            "seconds": 7.0,
            "body": {},
        }
        write_json(
            folder / "cell.json",
            {"missing": "", "budget": "quick", "device": "cpu", "commit": "abc", "seeds": {"0": facts, "1": facts}},
        )

    baselines = {name: [[0.80, 0.70, 0.60], [0.50, 0.60, 0.70]] for name in bench["baselines"]}
    baselines["ridge"] = [[0.81, 0.71, 0.61], [0.51, 0.61, 0.71]]
    write("baselines", baselines, 0.5)
    write("ltdi", {"ltdi": [[0.86, 0.76, 0.65], [0.56, 0.66, 0.76]]}, 4.0)
    write("ocd", {"ocd": [[0.80, 0.72, 0.61], [0.50, 0.62, 0.71]]}, 8.0)
    write("ghn3", {"ghn3": [[0.71, 0.61, 0.50], [0.41, 0.51, 0.61]]}, 8.0)
    write_json(tmp_path / "omniglot-5w1s" / "ltdi" / "cell.json", {"missing": "no Omniglot; get it"})
    return few_shot.Measured.load()


def test_the_few_shot_table(measured, bench):
    text = render("few_shot", cells=measured)
    table = text.partition("## What to use")[0]
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    # six tasks: deviation 0.1059, 1.96·0.1059/√6 = 0.0847; the seeds' means 0.7567 and 0.66 deviate by 0.0967/√2
    assert "**70.83** ± 8.47 sd 6.84 ▲" in lines["Lt-Di"]
    assert "▼" in lines["GHN3"] and "**" not in lines["GHN3"]
    assert "▲" not in lines["OCD"] and "▼" not in lines["OCD"]
    assert "97.12" in lines["Lt-Di"] and "missing" in lines["Lt-Di"] and "missing" in lines["REPTILE"]
    assert text.count("- missing: omniglot-5w1s: no Omniglot; get it") == 1
    assert "reduced budget" in text
    assert "above the best baseline (ridge), paired over tasks: Lt-Di (+4.83" in text


def test_the_times_table(measured, bench):
    times = render("few_shot", cells=measured).partition("## Time")[2]
    (line,) = [line for line in times.splitlines() if line.startswith("| Lt-Di")]
    assert [part.strip() for part in line.split("|")[2:9]] == ["1.0", "4.00", "", "5.0", "1.06", "2.0", "7"]


def test_long_rows_have_a_row_a_seed(measured, bench):
    table = measured.long_rows()
    (first, second) = [each for each in table if each["method"] == "ltdi"]
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["accuracy"] == pytest.approx(0.7567, abs=1e-4) and second["accuracy"] == pytest.approx(0.66)
    assert (first["variant"], first["budget"]) == ("few_shot", "quick")
    assert first["best_baseline"] == "ridge" and first["paired_diff"] == pytest.approx(0.14 / 3)
    assert set(first) <= set(rows.COLUMNS["runs.csv"]) and first["ms_batch_1"] == 5.0
    assert all("paired_diff" not in each for each in table if each["method"] in bench["baselines"])


def test_the_components_and_the_picture(measured, bench, tmp_path):
    text = render("components", cells=measured)
    assert "| Lt-Di | C1 C2 C3 | 70.83 ± 8.47 (+4.83 ± " in text and "| LLO-VAE | C1 | missing |" in text
    few_shot.picture(measured, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_audits_of_cells_are_kept_and_told(measured, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    rows.add("audit.csv", pd.concat(measured.audits))
    text = render("audit", rows=rows.read("audit.csv"))
    (line,) = [line for line in text.splitlines() if "| Lt-Di |" in line]
    assert "| 70.00 ± 1.00 | 20.00 ± 1.00 |" in line and line.endswith("| no: none |")
    assert line.count("not of these weights") == 4
    assert "| prototype |" in text  # of the baselines the first
