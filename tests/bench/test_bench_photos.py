"""Photographs: a row a domain and method, the method's paired with the domain's own best baseline; the table over the
seeds; and the parts of the preset."""

import pandas as pd
import pytest
import torch

from bench.harness.report import render
from bench.harness.settings import defaults, load_yaml, override
from bench.tables import photos, transductive
from ltdi.store import write_json, write_table, write_tensors
from pipeline.common.params import load


def test_the_preset_is_one_of_valid_params(repository, tmp_path):
    from ruamel.yaml import YAML

    params = override(defaults(), load_yaml(repository / "bench" / "conf" / "photos.yaml"))
    YAML().dump(params, tmp_path / "params.yaml")
    found = load(tmp_path / "params.yaml", *params)
    assert found.scenario.name == "domains" and found.trajectories.initialization == "adaptive_ridge"
    assert found.data.domains.test == ["cifar10", "pacs/sketch", "omniglot/test"]
    of = found.data.domains
    assert not (set(of.train) & set(of.val) or set(of.train + of.val) & set(of.test))
    parts = load_yaml(repository / "bench" / "conf" / "photo_parts.yaml")
    for changes in parts["parts"].values():
        YAML().dump(override(params, parts["common"] | changes), tmp_path / "params.yaml")
        assert load(tmp_path / "params.yaml", *params).data.domains.val == of.val


def test_no_more_is_asked_than_characters_have(repository):
    assert [photos.n_query(n_shot) for n_shot in (1, 5, 10)] == [15, 15, 10]
    preset = load_yaml(repository / "bench" / "conf" / "photos.yaml")["data.domains"]
    asked = transductive.with_unlabelled(preset)
    assert asked["train"] == preset["train"] and asked["test"] == ["cifar10", "pacs/sketch"]
    assert "glyphs/val" not in asked["val"] and len(asked["val"]) == 4


def test_each_domain_has_its_own_best_baseline(tmp_path):
    domains = ["a", "b"] * 4
    tasks = pd.DataFrame({"split": ["meta_val", *["meta_test"] * 8], "domain": ["v", *domains]})
    scores = {
        "ltdi": [0.9, 0.5] * 4,
        "prototype": [0.8, 0.5] * 4,
        "ridge": [0.7, 0.6] * 4,
    }
    table = [
        {"task": i, "method": name, "score": value} for name, each in scores.items() for i, value in enumerate(each)
    ]
    write_table(tmp_path / "tasks" / "tasks.parquet", tasks)
    write_table(tmp_path / "results" / "per_task.parquet", pd.DataFrame(table))
    write_json(tmp_path / "results" / "metrics.json", {"method": "ltdi", "baselines": {"prototype": {}, "ridge": {}}})
    write_json(tmp_path / "model" / "metrics.json", {"seconds": 3.0, "best_baseline": "ridge"})
    features = {"x": torch.zeros(1)}
    write_tensors(
        tmp_path / "tasks" / "features.safetensors", features, {"train_classes": 7, "val_classes": 3}, kind="features"
    )

    rows = pd.DataFrame(photos.rows(tmp_path, 1, 0, refit=True))
    own = rows[rows.method == "ltdi"].set_index("setting")
    assert dict(own.best_baseline) == {"a": "prototype", "b": "ridge"}
    assert own.paired_diff.tolist() == pytest.approx([0.1, -0.1])
    # meta-val picks one for all domains
    assert set(own.chosen_baseline) == {"ridge"} and own.chosen_diff.tolist() == pytest.approx([0.2, -0.1])
    assert set(rows.tasks) == {4} and set(rows.train_classes) == {10}


def test_the_table_is_of_all_seeds_and_its_interval_of_their_mean():
    common = {"setting": "a", "n_shot": 1, "tasks": 500, "device": "a machine", "commit": "c"}
    rows = []
    for seed, (own, best, diff, half) in enumerate([(0.60, "ridge", 0.02, 0.003), (0.64, "lda", 0.04, 0.004)]):
        row = common | {"seed": seed, "method": "ltdi", "accuracy": own, "best_baseline": best}
        rows.append(row | {"paired_diff": diff, "paired_ci95": half})
        rows[-1] |= {"chosen_baseline": "lda", "chosen_diff": 0.05, "chosen_ci95": 0.01}
        rows += [common | {"seed": seed, "method": name, "accuracy": own - 0.05} for name in ("ridge", "lda")]
    text = render("photos", rows=pd.DataFrame(rows))
    assert "| a | 1 | 2 | 62.00 | 57.00 | 57.00 | ridge / LDA | +3.00 ± 0.25 | LDA | +5.00 ± 0.71 |" in text
    assert "500 tasks a row and seed, a machine, commit c." in " ".join(text.split())


def test_a_part_is_a_line_of_what_meta_val_says():
    said = {"val_score": 0.5, "best_baseline": "lda", "paired": {"difference": 0.01, "ci95": 0.002}, "seconds": 3.2}
    about = {"seed": 0, "n_shot": 1, "tasks": 400, "device": "d", "commit": "c"}
    text = render("photo_parts", found={"a part": said}, **about)
    assert "| a part | 50.00 | LDA | +1.00 ± 0.20 | 3 |" in text


def test_learning_once_more_is_compared_on_the_same_tasks():
    without = {"ltdi": [0.6, 0.8], "ridge": [0.5, 0.7], "lda": [0.4, 0.6]}
    again = {"ltdi": [0.7, 0.8], "ridge": [0.5, 0.7], "lda": [0.6, 0.8]}
    first, second = ({name: torch.tensor(own) for name, own in each.items()} for each in (without, again))
    found = photos.refit_cells(first, second, "ltdi")
    assert found == ["LDA", "+10.00 ± 0.00", "+5.00 ± 9.80", "+5.00 ± 9.80"]


def test_what_is_held_out_is_learned_from_nowhere_and_is_no_test_set(repository):
    preset = load_yaml(repository / "bench" / "conf" / "photos.yaml")["data.domains"]
    for domains in load_yaml(repository / "bench" / "conf" / "photo_refit.yaml")["held_out"].values():
        override(defaults(), {"data.domains": domains})
        train, val, test = (set(domains[split]) for split in ("train", "val", "test"))
        assert not (train & val or (train | val) & test or test & set(preset["test"]))
        assert test <= set(preset["train"] + preset["val"]) and train | val <= set(preset["train"] + preset["val"])
