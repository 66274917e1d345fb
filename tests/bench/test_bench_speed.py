"""The speed table: what it compares does the same work, and a row says what was measured."""

import pytest
import torch
from torch.testing import assert_close

from bench.speed import hot_paths
from bench.speed import run as speed
from bench.speed.hot_paths import World

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world():
    return World(CPU)


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_the_loop_over_tasks_trains_the_same_heads(world, sam):
    path = hot_paths._collection(world, 4, 5, sam, "float32")
    assert (path.n, path.n_plain) == (4, 1)
    assert_close(path.plain(), path.ours().points[:1, 0], rtol=1e-3, atol=1e-4)


def test_classification_gives_what_the_body_and_a_head_give(world):
    path = hot_paths._classification(world)
    assert path.ours().shape == path.plain().shape == (1, 5)
    assert_close(path.ours().sum(-1), torch.ones(1))


def test_products_of_a_head_are_counted(world):
    # two layers forward and, but for the inputs' gradient, back, one forward pass more for the last loss
    one_pass = 2 * 100 * 64 * (65 * 2 + 5 * 3) * 30 + 2 * 100 * 64 * (65 + 5)
    assert speed._flops(hot_paths._collection(world, 4, 5, 0.0, "float32")) == pytest.approx(one_pass, rel=0.02)


def test_a_row_says_the_medians(world):
    found = speed.Measured([100.0, 300.0, 200.0], [2.0, 4.0, 3.0], [0.1, 0.3, 0.2], 1234)
    row = speed.line(hot_paths._generation(world, 1), found, "1")
    assert row[:3] == ["generation, 1 at once", "1", "200 tasks a second"]
    assert row[3].startswith("3.0 (2.0 to 4.0)") and row[5].startswith("20 %")
    assert row[6] == "1,234"


def test_operations_that_compute_are_counted():
    x = torch.ones(2, 3)
    assert speed.operations(lambda: (x.T.reshape(2, 3) + x.view(-1)[:3]).sum().item()) == 3  # the copy, + and the sum


def test_what_is_small_takes_few_operations(world):
    """A card waits for each to be told. The bounds are a fifth above what it was when they were set."""
    step = hot_paths._meta_training(world, 2).ours
    # 490 where the visited state is the chain's last
    assert max(speed.operations(step) for _ in range(6)) <= 590
    assert speed.operations(hot_paths._generation(world, 1).ours) <= 270  # 226
    assert speed.operations(hot_paths._generation(world, 64).ours) <= 305  # 256
    assert speed.operations(hot_paths._classification(world).ours) <= 34  # 28


def test_the_table_is_of_measurements(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LTDI_DEVICE", "cpu")
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    monkeypatch.setattr(speed, "hot_paths", lambda where: [hot_paths._classification(World(where))])
    speed.main(threads=[1], pairs=1)
    written = (tmp_path / "speed.md").read_text()
    assert "| classification of an image | 1 |" in written and "images a second" in written
    assert "| classification of an image | 1 |" in capsys.readouterr().out
