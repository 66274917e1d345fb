"""Theorem 2 as the bench measures it, where both sides are known: quadratic losses."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from bench.probes.curvature import _of_tasks, _sam, _where_the_loss_is, markdown
from ltdi.utils.seeding import generator

EIGENVALUES = torch.tensor([4.0, 1.0, 0.5])
B = 5


@pytest.fixture(scope="module")
def measured():
    """Bowls with the optimum at zero, where training ended; ŵ lies on the steepest axis."""
    learner = SimpleNamespace(loss=lambda w, batch: (EIGENVALUES * w.square()).sum(-1) / 2 + 0 * batch["zero"])
    first = 1 + torch.rand(B, 3, generator=generator(0, "initialization"))
    trained = torch.zeros(B, 3)
    points = torch.stack([trained, first / 2, first], 1)
    w = torch.tensor([0.3, 0.0, 0.0]).repeat(B, 1)
    found = _of_tasks(learner, {"zero": torch.zeros(B)}, points, w, {"optimizer": "adam", "lr": 0.01})
    return pd.DataFrame(found)


def test_curvature_and_distance_are_those_of_the_bowl(measured):
    assert_close(measured["lambda"].tolist(), [4.0] * B, rtol=1e-4, atol=0)
    assert_close(measured.l.tolist(), [4.0] * B, rtol=1e-4, atol=0)
    assert_close(measured.delta.tolist(), [0.09] * B, rtol=1e-4, atol=0)


def test_the_first_term_is_the_loss_on_the_steepest_axis(measured):
    assert_close((measured["lambda"] / 2 * measured.delta).tolist(), measured.loss_hat.tolist(), rtol=1e-4, atol=1e-6)


def test_the_table_counts_where_it_holds(measured):
    below, above = measured.copy(), measured.copy()
    below["lambda"], above["lambda"] = 8.0, 1.0
    assert "| 100.0% | 2 |" in markdown(below, "command", 30)
    assert "| 0.0% | 0.25 |" in markdown(above, "command", 30)


def test_where_sam_never_gets_as_low_nothing_is_compared(measured):
    # its loss has to be that of the optimum, which ninety small steps do not reach
    assert measured.lambda_sam.isna().all()
    assert "0 tasks get there" in markdown(measured.assign(lambda_sam=float("nan")), "command", 30)


def test_equal_loss_is_found_between_two_steps():
    learner = SimpleNamespace(loss=lambda w, batch: (EIGENVALUES * w.square()).sum(-1) / 2)
    below = torch.zeros(B, 3)
    above = torch.rand(B, 3, generator=generator(1, "above"))
    loss = learner.loss(above, {}) * torch.linspace(0.1, 0.9, B)
    w = _where_the_loss_is(learner, {}, loss, above, below)
    # of a bowl the loss is quadratic on the way: √ of the share
    assert_close(w, above * torch.linspace(0.1, 0.9, B).sqrt()[:, None], rtol=1e-4, atol=1e-6)


def test_with_sam_the_loss_is_the_same():
    learner = SimpleNamespace(loss=lambda w, batch: (EIGENVALUES * w.square()).sum(-1) / 2 + 0 * batch["zero"])
    batch, first = {"zero": torch.zeros(B)}, 1 + torch.rand(B, 3, generator=generator(0, "initialization"))
    loss = learner.loss(first, batch) / 2
    found = _sam(learner, batch, first, loss, {"optimizer": "sgd", "lr": 0.05})
    assert_close(found["loss_sam"], loss, rtol=1e-4, atol=0)
    assert_close(found["lambda_sam"], torch.full((B,), 4.0), rtol=1e-4, atol=0)
