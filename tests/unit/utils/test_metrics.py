"""Scores against sums done by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from ltdi.tasks.batch import ABSENT
from ltdi.tasks.class_tasks import labelled
from ltdi.utils.metrics import accuracy, best_and_paired, mean_and_ci95, nearest_mean_accuracy, weight_mse
from ltdi.utils.seeding import generator


def test_accuracy_is_the_fraction_of_right_answers_a_task():
    logits = torch.tensor([[[2.0, 1, 0], [0, 1, 2]], [[0, 3, 1], [5, 0, 0]]])
    assert accuracy(logits, torch.tensor([[0, 2], [1, 2]])).tolist() == [1.0, 0.5]


def test_what_is_not_there_is_neither_right_nor_wrong():
    logits = torch.randn(2, 6, 3, generator=generator(0, "absent"))
    labels = torch.tensor([[0, ABSENT, 1, 2, ABSENT, ABSENT], [ABSENT, 2, ABSENT, ABSENT, 1, 0]])
    there = labels >= 0
    expected = torch.cat([accuracy(logits[b, there[b]][None], labels[b, there[b]][None]) for b in range(2)])
    assert accuracy(logits, labels).equal(expected)
    # what the logits of the others are makes no difference
    assert accuracy(torch.where(there[..., None], logits, 1e9), labels).equal(expected)


@pytest.mark.parametrize("n", [2, 10, 400])
def test_interval_of_a_coin(n):
    # n/2 zeros and n/2 ones: variance 1/4 · n/(n - 1)
    mean, half_width = mean_and_ci95(torch.arange(n) % 2)
    assert mean == 0.5
    assert half_width == pytest.approx(1.96 * math.sqrt(0.25 / (n - 1)))


def test_interval_covers_the_mean_in_95_of_100():
    draws = 0.3 + 0.1 * torch.randn(2000, 100, generator=generator(0, "coverage"))
    covered = sum(abs(mean - 0.3) < half for mean, half in map(mean_and_ci95, draws)) / 2000
    assert covered == pytest.approx(0.945, abs=0.015)


def test_a_single_task_and_equal_tasks_have_no_width():
    assert mean_and_ci95(torch.tensor([0.25])) == (0.25, 0.0)
    assert mean_and_ci95(torch.full((9,), 0.25)) == (0.25, 0.0)


def test_the_mean_does_not_lose_what_a_float_would():
    values = torch.cat([torch.full((100_000,), 1.0), torch.full((100_000,), 1.0 - 2**-24)])
    assert mean_and_ci95(values)[0] == pytest.approx(1 - 2**-25, abs=1e-12)


def test_weight_mse_is_a_mean_over_the_numbers_of_a_task():
    assert weight_mse(torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[1.0, 4], [3, 4]])).tolist() == [2.0, 12.5]


def test_nearest_mean_accuracy_is_the_loop_over_queries():
    B, N, K, Q, F = 3, 4, 2, 5, 6
    stream = generator(0, "nearest")
    centres = torch.randn(B, N, 1, F, generator=stream)
    support = centres + torch.randn(B, N, K, F, generator=stream)
    query = centres + torch.randn(B, N, Q, F, generator=stream)
    expected = []
    for b in range(B):
        right = 0
        for n in range(N):
            for q in range(Q):
                distances = [
                    sum((query[b, n, q, f] - support[b, m, :, f].mean()) ** 2 for f in range(F)) for m in range(N)
                ]
                right += distances.index(min(distances)) == n
        expected.append(right / (N * Q))
    batch = labelled(query)
    scores = nearest_mean_accuracy(support.mean(2), batch["inputs"], batch["labels"])
    assert_close(scores, torch.tensor(expected))
    assert 1 / N < scores.mean() < 1


def test_the_best_of_the_others_and_the_paired_difference():
    own = torch.tensor([0.5, 0.7, 0.9])
    best, paired = best_and_paired(own, {"low": torch.tensor([0.9, 0.1, 0.1]), "high": torch.tensor([0.4, 0.7, 0.8])})
    assert best == "high"
    # differences 0.1, 0, 0.1: deviation 0.0577
    assert paired["difference"] == pytest.approx(0.2 / 3, abs=1e-6)
    assert paired["ci95"] == pytest.approx(1.96 * 0.057735 / 3**0.5, abs=1e-5)
