"""What metrics.json says of the way: recorded points and chain states, and how far they are from the trained heads."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.store import read_json, read_tensors, write_tensors
from ltdi.trajectories.collection import Trajectories
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories, read_weights
from ltdi.utils.metrics import weight_mse
from pipeline.evaluate import _way
from pipeline.summary import show

pytestmark = pytest.mark.slow

KEPT = torch.tensor([0, 2, 3, 7])


def points(n_tasks: int = 4) -> torch.Tensor:
    """w_i is i + 1 in every number: i² from w_0."""
    return torch.arange(1.0, 5.0)[None, :, None].expand(n_tasks, -1, 6)


def test_the_way_of_recorded_points_ends_at_the_trained_head():
    assert _way(Trajectories.of(points()), KEPT, None) == {"recorded": {"w3": 9.0, "w2": 4.0, "w1": 1.0, "w0": 0.0}}


def test_the_way_of_the_chain_is_of_the_tasks_that_have_both():
    """Of tasks 0 to 4; task 1 and 4 have no trajectory, and what their chains say does not count."""
    states = torch.tensor([5.0, 3.0, 1.5])[:, None, None].repeat(1, 5, 6)
    states[:, [1, 4]] = 1e3
    trajectories = points().clone()
    trajectories[3] = 1e3
    way = _way(Trajectories.of(trajectories), KEPT, states)
    assert way["recorded"] == {"w3": 9.0, "w2": 4.0, "w1": 1.0, "w0": 0.0}
    assert list(way["chain"]) == ["x2", "x1", "x0"]
    assert_close(way["chain"], {"x2": 16.0, "x1": 4.0, "x0": 0.25})


@pytest.fixture
def at_full_strength(finished, mixed, run_stage):
    """A run whose heads are not drawn back to the start, so that its chain goes somewhere."""
    file = finished.data / "model" / "methods" / "ltdi.safetensors"
    tensors, values = read_tensors(file, kind="method")
    write_tensors(file, tensors | {"update_scale": torch.ones_like(tensors["update_scale"])}, values, kind="method")
    for stage in ("generate_weights", "evaluate"):
        run_stage(stage, finished.params, finished.data)
    return finished.data


def test_the_chain_leads_from_the_start_to_the_generated_heads(at_full_strength):
    data, chains = at_full_strength, 5
    way = read_json(data / "results" / "metrics.json")["way"]
    states = read_tensors(data / "weights" / "chain.safetensors", kind="chain")[0]["states"]
    assert states.shape[:2] == (4, chains)
    some = torch.arange(chains)
    trained = load_trajectories(data, "meta_test")[0].trained(some)
    tasks = load_sources(data, splits=["meta_test"])["meta_test"]
    begin = load_initialization(data)[0].centre(tasks.context(some))
    ((numbers, weights),) = read_weights(data / "weights" / "ltdi")
    generated = weights["w"][:chains]
    assert torch.equal(numbers, torch.arange(30))

    assert list(way["chain"]) == ["x3", "x2", "x1", "x0"] and list(way["recorded"]) == ["w3", "w2", "w1", "w0"]
    distances = {"x3": weight_mse(begin, trained), "x0": weight_mse(generated, trained)}
    assert_close(
        {name: way["chain"][name] for name in distances},
        {name: value.mean().item() for name, value in distances.items()},
        rtol=1e-4,
        atol=0,
    )
    assert way["chain"]["x3"] != pytest.approx(way["chain"]["x0"], rel=1e-3)
    assert way["recorded"]["w0"] == 0 < way["recorded"]["w1"]
    assert way["recorded"]["w3"] == pytest.approx(way["chain"]["x3"], rel=1e-4)


def test_the_summary_says_the_way(finished, capsys):
    show(finished.data)
    said = " ".join(capsys.readouterr().out.split())
    for name, states in read_json(finished.data / "results" / "metrics.json")["way"].items():
        line = ", ".join(f"{state} {value:.2e}" for state, value in states.items())
        assert f"weight MSE along it, {name}: {line}" in said


def test_a_method_without_a_chain_has_the_recorded_way_alone(finished, mixed, run_stage):
    (finished.data / "weights" / "chain.safetensors").unlink()
    run_stage("evaluate", finished.params, finished.data)
    way = read_json(finished.data / "results" / "metrics.json")["way"]
    recorded = load_trajectories(finished.data, "meta_test")[0]
    whole = recorded.points(torch.arange(len(recorded)))
    assert list(way) == ["recorded"]
    assert_close(way["recorded"]["w3"], weight_mse(whole[:, 3], whole[:, 0]).mean().item(), rtol=1e-4, atol=0)


def test_a_run_on_training_tasks_of_more_classes(finished, run_stage, write_params, tmp_path):
    params = write_params(tmp_path / "wide", {"tasks.train_n_way": 8})
    for stage in ("prepare_tasks", "collect_trajectories", "meta_train", "generate_weights", "evaluate"):
        run_stage(stage, params, finished.data)
    sources, learner = load_sources(finished.data), load_initialization(finished.data)[0].learner
    for split, n_way in {"meta_train": 8, "meta_val": 5, "meta_test": 5}.items():
        assert sources[split].n_way == n_way
        assert load_trajectories(finished.data, split)[0].dim == learner.space.dim(n_way)
    metrics = read_json(finished.data / "results" / "metrics.json")
    assert all(0 < row["score"] < 1 and row["weight_mse"] > 0 for row in (metrics, *metrics["baselines"].values()))
