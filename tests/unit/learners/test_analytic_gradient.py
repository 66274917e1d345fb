"""The gradient that is written out is autograd's, and what is trained by it takes the same path."""

from itertools import cycle, repeat

import pytest
import torch
from torch.testing import assert_close

from ltdi.learners import LinearHead, TwoLayerHead
from ltdi.learners.fitting import adapt, gradient, train
from ltdi.tasks.batch import ABSENT
from ltdi.tasks.class_tasks import labelled
from ltdi.utils.seeding import generator

B, N, K, F = 3, 4, 5, 6
LEARNERS = {"two layers": TwoLayerHead(F, 8), "linear": LinearHead(F)}


@pytest.fixture(params=LEARNERS.values(), ids=LEARNERS)
def learner(request):
    return request.param


@pytest.fixture
def w(learner):
    w = learner.initial(B, N, generator(0, "w")).double()
    return w + 0.1 * torch.randn(w.shape, generator=generator(0, "biases")).double()


def batch(step=0, absent=True):
    made = labelled(torch.randn(B, N, K, F, generator=generator(0, "batch", step)).double())
    if absent:
        # each task lacks others, the last all of a class
        made["labels"][0, 3] = made["labels"][1, [0, 7, 11]] = made["labels"][2, 5:10] = ABSENT
        made["inputs"] = torch.where((made["labels"] >= 0)[..., None], made["inputs"], 1e6)
    return made


def found(learner, w, of):
    """The gradient (B, D) and the losses (B,) that are written out."""
    written = learner.analytic_gradient(w)
    written.show(of)
    written.forward()
    written.backward()
    losses = written.losses()
    written.numbers.copy_(written.gradient)
    return written.weights(), losses


@pytest.mark.parametrize("absent", [False, True])
def test_it_is_autograds(learner, w, absent):
    expected, losses = gradient(learner.loss, w, batch(absent=absent))
    g, own = found(learner, w, batch(absent=absent))
    assert_close(g, expected, rtol=1e-10, atol=1e-12)
    assert_close(own, losses, rtol=1e-10, atol=1e-12)


def test_in_single_precision_it_is_autograds_to_rounding(learner, w):
    single = {
        name: value.float() if value.is_floating_point() else value for name, value in batch(absent=False).items()
    }
    g, _ = found(learner, w.float(), single)
    assert_close(g, gradient(learner.loss, w.float(), single)[0])


def test_products_in_another_format_round_the_gradient_and_leave_the_weights(learner, w):
    w, of = w.float(), {name: value.float() if value.is_floating_point() else value for name, value in batch().items()}
    expected, losses = gradient(learner.loss, w, of)
    written = learner.analytic_gradient(w, torch.bfloat16)
    written.show(of)
    written.forward()
    written.backward()
    assert written.weights().equal(w) and written.gradient.dtype == torch.float32
    assert_close(written.losses(), losses, rtol=0.02, atol=0.02)
    written.numbers.copy_(written.gradient)
    off = (written.weights() - expected).norm(dim=1) / expected.norm(dim=1)
    assert (off < 0.02).all() and (off > 1e-5).all()


def test_where_products_are_exact_another_format_changes_nothing(learner):
    """Whole numbers below 256: their products and sums are the same in bfloat16, up to the softmax."""
    w = torch.randint(-2, 3, (B, learner.space.dim(N)), generator=generator(0, "whole")).float()
    of = labelled(torch.randint(-2, 3, (B, N, K, F), generator=generator(0, "inputs")).float())
    seen = []
    for products in (None, torch.bfloat16):
        written = learner.analytic_gradient(w, products)
        written.show(of)
        written.forward()
        seen.append(written.z.clone())
    assert seen[0].abs().max() < 256 and seen[0].equal(seen[1])


def test_the_weights_come_back_as_they_were(learner, w):
    written = learner.analytic_gradient(w)
    assert written.weights().equal(w)
    written.numbers.mul_(2)
    assert written.weights().equal(2 * w)
    assert len(written.numbers) == len(written.gradient) == w.numel()
    assert all(len(part) == B for part in written.parts(written.numbers))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("sam", [0.0, 0.1])
@pytest.mark.parametrize("other", [False, True], ids=["one batch", "another each step"])
def test_the_path_is_that_of_autograd(learner, w, optimizer, sam, other):
    how = {"optimizer": optimizer, "lr": 0.05, "record": [0, 3, 9], "sam": sam}
    seen = [batch(step, absent=step % 2 == 0) for step in range(3)] if other else [batch()]
    before = w.clone()
    path, expected = train(learner, w, cycle(seen), **how), adapt(learner.loss, w, cycle(seen), **how)
    assert_close(path.weights, expected.weights, rtol=1e-7, atol=1e-9)
    assert_close(path.losses, expected.losses, rtol=1e-7, atol=1e-9)
    assert w.equal(before) and not path.weights.requires_grad


def test_a_learner_that_has_none_written_out_is_trained_all_the_same(learner, w, monkeypatch):
    how = {"optimizer": "adam", "lr": 0.05, "record": [2]}
    monkeypatch.setattr(type(learner), "analytic_gradient", lambda *_: None)
    assert train(learner, w, repeat(batch()), **how).weights.equal(
        adapt(learner.loss, w, repeat(batch()), **how).weights
    )
