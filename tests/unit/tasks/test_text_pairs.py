"""Pairs that nobody has labelled: which texts they are of, and what a likeness becomes."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.tasks.text_pairs import NEAREST, Pairs, some_pairs
from ltdi.utils.seeding import generator

M = 40


@pytest.fixture
def unit():
    return torch.nn.functional.normalize(torch.randn(M, 5, generator=generator(0, "unit")), dim=-1)


@pytest.mark.parametrize("n_given, first", [(30, 20), (6, 6), (0, 0)])
def test_pairs_are_given_ones_near_ones_and_any(unit, n_given, first):
    """What is missing of the given ones is made up by near ones."""
    given = torch.stack([torch.arange(n_given), M - 1 - torch.arange(n_given)], 1)
    pairs = some_pairs(unit, torch.zeros(M, dtype=torch.long), given, 50, generator(0, "pairs"))
    assert pairs.shape == (50, 2) and pairs.min() >= 0 and pairs.max() < M
    known = {tuple(pair) for pair in given.tolist()}
    assert len({tuple(pair) for pair in pairs[:first].tolist()} & known) == first
    likeness = unit @ unit.mT
    for anchor, other in pairs[first:40].tolist():
        nearer = (likeness[anchor].index_fill(0, torch.tensor(anchor), -1) > likeness[anchor, other]).sum()
        assert anchor != other and nearer < NEAREST


@pytest.mark.parametrize("n_others", [15, 3])
def test_half_of_the_near_ones_are_of_another_set(unit, n_others):
    """They are the nearest among those, of which there may be fewer than are asked for."""
    sets = (torch.arange(M) >= M - n_others).long()
    pairs = some_pairs(unit, sets, torch.zeros(0, 2, dtype=torch.long), 50, generator(0, "pairs"))
    likeness = unit @ unit.mT
    for anchor, other in pairs[:20].tolist():
        there = (sets != sets[anchor]) & (likeness[anchor] > likeness[anchor, other])
        assert sets[anchor] != sets[other] and there.sum() < NEAREST
    among_all = [
        (likeness[a].index_fill(0, torch.tensor(a), -1) > likeness[a, b]).sum() for a, b in pairs[20:40].tolist()
    ]
    assert max(among_all) < NEAREST and (sets[pairs[20:40]].diff() == 0).any()


def made(likeness):
    return Pairs(torch.randn(len(likeness), 3, 2), torch.ones(len(likeness), 3, dtype=torch.long), likeness)


def test_a_likeness_counts_by_its_place_among_all():
    """The mean is as much "alike" as "other", and no scale or origin of the cosines makes a difference."""
    likeness = torch.tensor([0.1, 0.2, 0.3, 0.6])
    rows = torch.tensor([[0, 1, 2, 3]])
    batch = made(likeness).batch(rows)
    shares = batch["shares"][0]
    assert batch["hidden"].shape == (1, 4, 3, 2) and batch["mask"].shape == (1, 4, 3)
    assert_close(shares.sum(-1), torch.ones(4))
    assert_close(shares[2, 1], torch.tensor(0.5))
    assert (shares[:, 1].diff() > 0).all()
    assert_close(made(0.99 + likeness / 200).batch(rows)["shares"], batch["shares"], rtol=0, atol=1e-4)
    assert_close(made(torch.full((4,), 0.3)).batch(rows)["shares"], torch.full((1, 4, 2), 0.5))


def test_they_are_kept_as_tensors():
    pairs = made(torch.rand(4))
    again = Pairs.of(pairs.tensors() | {"meta_val/label": torch.zeros(2)})
    assert_close(vars(again), vars(pairs), rtol=0, atol=0)
    assert Pairs.of({"meta_val/label": torch.zeros(2)}) is None
