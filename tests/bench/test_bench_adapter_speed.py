"""Adapters trained together are those that peft trains one after another; what the table of adapters counts."""

import math
from types import SimpleNamespace

import pytest
import torch
from language import sentence, write_bert
from torch.testing import assert_close

from bench.speed.adapters import LORA, one_by_one, together
from ltdi.inference.adapter_run import AdapterRun
from ltdi.learners import Lora
from ltdi.utils.seeding import generator

pytestmark = pytest.mark.slow

pytest.importorskip("peft")


def test_both_ways_end_at_the_same_weights(tmp_path):
    learner = Lora(write_bert(tmp_path / "model"), **LORA, layers=2)
    stream = generator(0, "speed")
    parts = [[(sentence(torch.randint(0, 60, (5,), generator=stream)),) for _ in range(4)] for _ in range(3)]
    labels = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
    initialization = learner.initial(1, 2, stream)
    found = [way(learner, initialization, parts, labels, 3) for way in (together, one_by_one)]
    assert not torch.allclose(found[0], initialization.expand(3, -1), atol=1e-3)
    assert_close(found[0], found[1], rtol=1e-3, atol=2e-4)


def test_class_frequencies_change_the_odds_as_bayes_says(tmp_path):
    learner = Lora(write_bert(tmp_path / "model"), **LORA, layers=2)
    stream = generator(0, "frequencies")
    w = torch.randn(1, learner.space.dim(2), generator=stream)
    batch = {"hidden": torch.randn(1, 4, 5, 32, generator=stream), "mask": torch.ones(1, 4, 5, dtype=torch.long)}
    counted = AdapterRun.counted(SimpleNamespace(learner=learner), w, {"labels": torch.tensor([[0, 1, 1, 1]])})
    plain, changed = (learner.logits(each, **batch).diff(dim=-1) for each in (w, counted))
    assert_close(changed, plain + math.log(3), rtol=1e-5, atol=1e-5)
