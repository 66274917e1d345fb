"""Adapters trained together are those that peft trains one after another."""

import pytest
import torch
from language import sentence, write_bert
from torch.testing import assert_close

from ltdi.learners import Lora
from ltdi.seeding import generator

pytestmark = pytest.mark.slow

pytest.importorskip("peft")


def test_both_ways_end_at_the_same_weights(tmp_path):
    from bench.adapter_speed import KNOBS, one_by_one, together

    learner = Lora(write_bert(tmp_path / "model"), **KNOBS, layers=2)
    stream = generator(0, "speed")
    parts = [[(sentence(torch.randint(0, 60, (5,), generator=stream)),) for _ in range(4)] for _ in range(3)]
    labels = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
    start = learner.initial(1, 2, stream)
    found = [way(learner, start, parts, labels, 3) for way in (together, one_by_one)]
    assert not torch.allclose(found[0], start.expand(3, -1), atol=1e-3)
    assert_close(found[0], found[1], rtol=1e-3, atol=2e-4)
