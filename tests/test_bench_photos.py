"""The rows of a run of domains: a row a domain and method, the method's paired with the domain's own best control."""

import pandas as pd
import pytest
import torch

from bench import photos
from bench.settings import defaults, load_yaml, override
from ltdi.store import write_json, write_table, write_tensors
from pipeline.params import load


def test_the_preset_is_one_of_valid_params(repository, tmp_path):
    from ruamel.yaml import YAML

    params = override(defaults(), load_yaml(repository / "bench" / "photos.yaml"))
    YAML().dump(params, tmp_path / "params.yaml")
    found = load(tmp_path / "params.yaml", *params)
    assert found.scenario.name == "domains" and set(found.data.domains.test) == {"cifar10", "pacs/sketch"}
    of = found.data.domains
    assert not (set(of.train) & set(of.val) or set(of.train + of.val) & set(of.test))


def test_each_domain_has_its_own_best_control(tmp_path):
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
    write_json(tmp_path / "results" / "metrics.json", {"method": "ltdi", "controls": {"prototype": {}, "ridge": {}}})
    write_json(tmp_path / "model" / "metrics.json", {"seconds": 3.0})
    features = {"x": torch.zeros(1)}
    write_tensors(tmp_path / "tasks" / "features.safetensors", features, {"train_classes": 7}, kind="features")

    rows = pd.DataFrame(photos.rows(tmp_path, 1, 0))
    own = rows[rows.method == "ltdi"].set_index("setting")
    assert dict(own.best_control) == {"a": "prototype", "b": "ridge"}
    assert own.paired_diff.tolist() == pytest.approx([0.1, -0.1])
    assert set(rows.tasks) == {4} and set(rows.train_classes) == {7}
