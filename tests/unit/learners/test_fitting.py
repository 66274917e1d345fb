"""Training of many heads at once is the training of each alone, by torch's own optimisers."""

from itertools import repeat
from operator import itemgetter

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ltdi.learners import TwoLayerHead
from ltdi.learners.fitting import adapt, gradient, sharpness_aware_gradient
from ltdi.tasks.batch import map_batch
from ltdi.tasks.class_tasks import labelled
from ltdi.utils.seeding import generator

B, N, K, FEATURES = 4, 3, 5, 6
HEAD = TwoLayerHead(FEATURES, 8)
STEPS = 7


@pytest.fixture
def w():
    return HEAD.initial(B, N, generator(0, "w"))


def batch(step=0):
    return labelled(torch.randn(B, N, K, FEATURES, generator=generator(0, "batch", step)))


def batches():
    return map(batch, range(STEPS + 1))


def train(w, data, **hparams):
    return adapt(HEAD.loss, w, data, **({"optimizer": "sgd", "lr": 0.1, "record": range(STEPS + 1)} | hparams))


def loss_of(w, of, b):
    """The loss of weights (D,) on task b of a batch, by torch's own function."""
    return F.cross_entropy(HEAD.logits(w[None], of["inputs"][b][None])[0], of["labels"][b])


OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_torchs_optimiser_on_each_task(w, name):
    path = train(w, batches(), optimizer=name, lr=0.03)
    for b in range(B):
        own = w[b].clone().requires_grad_()
        optimizer = OPTIMIZERS[name]([own], lr=0.03)
        for step in range(STEPS + 1):
            loss = loss_of(own, batch(step), b)
            assert_close(path.weights[b, step], own.detach(), rtol=1e-4, atol=1e-5)
            assert_close(path.losses[b, step], loss.detach(), rtol=1e-4, atol=1e-5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_a_task_does_not_feel_its_neighbours(w, name, sam):
    together = train(w, batches(), optimizer=name, sam=sam)
    for b in range(B):
        own = (map_batch(itemgetter(slice(b, b + 1)), each) for each in batches())
        alone = train(w[b : b + 1], own, optimizer=name, sam=sam)
        assert_close(alone.weights[0], together.weights[b], rtol=1e-4, atol=1e-5)


# --- what is recorded


def test_recorded_points_are_those_of_the_whole_path(w):
    whole, some = train(w, batches()), train(w, batches(), record=[0, 2, 3, STEPS])
    assert some.weights.equal(whole.weights[:, [0, 2, 3, STEPS]])
    assert some.losses.equal(whole.losses[:, [0, 2, 3, STEPS]])
    assert some.weights.shape == (B, 4, HEAD.space.dim(N)) and some.losses.shape == (B, 4)


def test_the_path_starts_at_the_start_and_leaves_it_alone(w):
    before = w.clone()
    path = train(w, batches())
    assert path.weights[:, 0].equal(before) and w.equal(before)
    assert not path.weights.requires_grad and not path.losses.requires_grad


def test_losses_are_those_of_the_recorded_weights(w):
    path = train(w, repeat(batch()), sam=0.1)
    for b in range(B):
        for step in range(STEPS + 1):
            assert_close(path.losses[b, step], loss_of(path.weights[b, step], batch(), b))


def test_training_works_where_gradients_are_off(w):
    expected = train(w, batches()).weights
    with torch.no_grad():
        assert train(w, batches()).weights.equal(expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_lowers_the_loss(w, name):
    losses = train(w, repeat(batch()), optimizer=name, lr=0.05).losses
    assert (losses[:, -1] < losses[:, 0]).all()


# --- sharpness-aware minimisation


def test_sam_by_hand(w):
    g, losses = sharpness_aware_gradient(HEAD.loss, w, batch(), radius=0.2)
    for b in range(B):
        own = w[b].clone().requires_grad_()
        loss = loss_of(own, batch(), b)
        (first,) = torch.autograd.grad(loss, own)
        worst = (own + 0.2 * first / first.norm()).detach().requires_grad_()
        (second,) = torch.autograd.grad(loss_of(worst, batch(), b), worst)
        assert_close(g[b], second)
        assert_close(losses[b], loss.detach())


def test_sam_of_a_single_logit():
    def loss(w, batch):
        return F.softplus(-w * batch["inputs"]).mean(-1)

    # ∇ -log σ(w) = -σ(-w) points down, so the worst neighbour of w is w - ρ
    g, _ = sharpness_aware_gradient(loss, torch.tensor([[0.4]]), {"inputs": torch.ones(1, 1)}, radius=0.1)
    assert_close(g, -torch.sigmoid(torch.tensor([[-0.3]])))


def test_sam_of_no_radius_is_the_gradient(w):
    assert_close(sharpness_aware_gradient(HEAD.loss, w, batch(), radius=0.0), gradient(HEAD.loss, w, batch()))
    assert_close(train(w, batches(), sam=0.0).weights, train(w, batches(), sam=1e-9).weights)
    assert not train(w, batches(), sam=0.0).weights.allclose(train(w, batches(), sam=0.3).weights)


def test_sam_at_a_flat_point_stays():
    def flat(w, batch):
        return 0 * w.sum(-1) + batch["inputs"].mean((1, 2))

    w = torch.ones(B, 4)
    path = adapt(flat, w, repeat(batch()), optimizer="sgd", lr=1.0, record=[0, 2], sam=0.1)
    assert path.weights.equal(w[:, None].expand(B, 2, 4))
