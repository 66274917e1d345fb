"""REPTILE: the vectorised loops are Python's, and one step of SGD is joint training."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from ltdi.meta_learning.reptile import CURRENT_PARAMETERS, _inner_loops, functional_forward, meta_step, weighted_sum
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

B, M = 4, 6


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x):
        return self.network(x)


@pytest.fixture
def model():
    return Model()


def loss_with(model):
    def loss(phi, batch):
        return (functional_call(model, dict(phi), (batch["x"],)) - batch["y"]).square().mean()

    return loss


def batches(steps, seed=0, n_tasks=B, n_images=M):
    stream = generator(seed, "reptile")
    draw = partial(torch.randn, n_tasks, n_images, generator=stream)
    return [{"x": draw(3), "y": draw(2)} for _ in range(steps)]


def row(batch, b):
    return {name: value[b : b + 1] for name, value in batch.items()}


class Recorder:
    """In the place of ``Training``: keeps the gradients that it is given."""

    def __init__(self, model):
        self.model = model

    def descend(self):
        self.gradients = {name: parameter.grad.clone() for name, parameter in self.model.named_parameters()}


def pseudo_gradient(model, data, **hparams):
    recorder = Recorder(model)
    value = meta_step(recorder, loss_with(model), data, **hparams)
    return recorder.gradients, value.item()


def test_a_module_is_called_with_the_parameters_given_or_its_own(model):
    x, own = torch.randn(4, 3), dict(model.named_parameters())
    others = {name: value.detach() + 1 for name, value in own.items()}
    assert functional_forward(model, CURRENT_PARAMETERS, x).equal(model(x)) and functional_forward(model, own, x).equal(
        model(x)
    )
    assert functional_forward(model, others, x).equal(functional_call(model, others, (x,)))
    assert not functional_forward(model, others, x).allclose(model(x))
    some = dict(list(others.items())[2:])
    assert functional_forward(model, some, x).equal(functional_call(model, own | some, (x,)))


def test_the_weighted_sum_is_the_sum_of_shares():
    a, b = torch.randn(2, 5)
    assert_close(weighted_sum([(0.3, a), (1, b)]), 0.3 * a + b)
    assert weighted_sum([(1.0, a)]) is a


OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def loop(data, name, lr):
    """φ_i of every task and its losses, by a Python loop and torch's optimiser."""
    ends, losses = [], []
    for b in range(B):
        own = Model()
        optimizer = OPTIMIZERS[name](own.parameters(), lr=lr)
        for batch in data:
            loss = loss_with(own)(dict(own.named_parameters()), row(batch, b))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        ends.append({name: value.detach() for name, value in own.named_parameters()})
    return {name: torch.stack([end[name] for end in ends]) for name in ends[0]}, torch.tensor(losses).view(B, -1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_inner_loops_are_a_loop_over_tasks(model, name, steps):
    phi = {key: value.detach() for key, value in model.named_parameters()}
    before = {key: value.clone() for key, value in phi.items()}
    moved, first_loss = _inner_loops(phi, loss_with(model), batches(steps), name, 0.05)
    expected, losses = loop(batches(steps), name, 0.05)
    assert_close({key: phi[key] - moved[key] for key in phi}, expected, rtol=1e-4, atol=1e-5)
    assert first_loss.item() == pytest.approx(losses[:, 0].mean().item(), rel=1e-5)
    assert_close(phi, before, rtol=0, atol=0)


@pytest.mark.parametrize(("steps", "name"), [(1, "sgd"), (1, "adam"), (3, "sgd"), (3, "adam")])
def test_the_pseudo_gradient_points_from_the_mean_end_to_the_start(model, steps, name):
    gradients, _ = pseudo_gradient(model, [batches(steps)], inner_optimizer=name, inner_lr=0.05)
    ends, _ = loop(batches(steps), name, 0.05)
    initialization = dict(model.named_parameters())
    assert_close(
        gradients, {key: initialization[key].detach() - ends[key].mean(0) for key in ends}, rtol=1e-4, atol=1e-6
    )


def test_one_step_of_sgd_is_joint_training(model):
    phi = {key: value.detach() for key, value in model.named_parameters()}
    moved, looped_loss = _inner_loops(phi, loss_with(model), batches(1), "sgd", 0.3)
    gradients, joint_loss = pseudo_gradient(model, [batches(1)], inner_optimizer="sgd", inner_lr=0.3)
    assert_close(gradients, {key: value.mean(0) for key, value in moved.items()}, rtol=1e-4, atol=1e-6)
    assert joint_loss == pytest.approx(looped_loss.item(), rel=1e-5)


def test_a_tasks_loop_does_not_feel_its_neighbours(model):
    phi = {key: value.detach() for key, value in model.named_parameters()}
    together, _ = _inner_loops(phi, loss_with(model), batches(3), "adam", 0.05)
    for b in range(B):
        alone, _ = _inner_loops(phi, loss_with(model), [row(batch, b) for batch in batches(3)], "adam", 0.05)
        assert_close(
            {key: value[0] for key, value in alone.items()},
            {key: value[b] for key, value in together.items()},
            rtol=1e-4,
            atol=1e-5,
        )


KNOBS = [(1, "sgd"), (3, "sgd"), (3, "adam")]


@pytest.mark.parametrize(("steps", "name"), KNOBS)
def test_the_outer_step_goes_down(model, steps, name):
    data = batches(1) * steps
    gradients, before = pseudo_gradient(model, [data], inner_optimizer=name, inner_lr=0.01)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter -= 0.1 * gradients[key]
        assert loss_with(model)(dict(model.named_parameters()), data[0]) < before


@pytest.mark.parametrize(("steps", "name"), KNOBS)
def test_meta_training_lowers_the_loss(model, steps, name):
    training = Training(model, lr=0.01, steps=60, ema=0.9)
    data = batches(1) * steps
    losses = [meta_step(training, loss_with(model), [data], inner_optimizer=name, inner_lr=0.01) for _ in range(60)]
    assert training.step == 60
    assert losses[-1] < 0.8 * losses[0]


def test_a_start_between_the_tasks_is_found():
    """Each task is |φ - a_b|²: the mean end points, and so the outer loop goes, to the mean of the a_b."""
    model = nn.Module()
    model.phi = nn.Parameter(torch.tensor([4.0, -4.0]))
    a = torch.tensor([[1.0, 0.0], [3.0, 2.0], [2.0, 4.0]])
    training = Training(model, lr=0.1, steps=400, ema=0.9)
    for _ in range(400):
        meta_step(
            training,
            lambda phi, batch: (phi["phi"] - batch["a"]).square().sum(-1).mean(),
            [[{"a": a}] * 3],
            inner_optimizer="sgd",
            inner_lr=0.1,
        )
    assert_close(model.phi.detach(), a.mean(0), rtol=0, atol=1e-2)


def test_inner_sgd_on_a_parabola_has_a_closed_form():
    phi, a = {"phi": torch.tensor([4.0])}, torch.tensor([[1.0], [3.0]])
    moved, _ = _inner_loops(
        phi, lambda phi, batch: (phi["phi"] - batch["a"]).square().sum(-1).mean(), [{"a": a}] * 5, "sgd", 0.1
    )
    assert_close(phi["phi"] - moved["phi"], a + 0.8**5 * (4 - a))


# --- parts of different sizes


def two_parts(steps):
    """Tasks of other numbers, and of other numbers of images."""
    return [batches(steps), batches(steps, seed=1, n_tasks=2 * B - 1, n_images=M + 3)]


@pytest.mark.parametrize(("steps", "name"), [(1, "sgd"), (1, "adam"), (3, "sgd"), (3, "adam")])
def test_the_pseudo_gradient_of_parts_is_the_sum_of_their_own(model, steps, name):
    hparams = {"inner_optimizer": name, "inner_lr": 0.05}
    (one, of_one), (other, of_other) = (pseudo_gradient(Model(), [part], **hparams) for part in two_parts(steps))
    together, value = pseudo_gradient(model, two_parts(steps), **hparams)
    assert_close(together, {key: one[key] + other[key] for key in one}, rtol=1e-4, atol=1e-6)
    assert value == pytest.approx(of_one + of_other, rel=1e-5)


def test_one_step_of_sgd_on_parts_is_joint_training(model):
    own = Model()
    loss = sum(loss_with(own)(dict(own.named_parameters()), part[0]) for part in two_parts(1))
    (0.3 * loss).backward()
    gradients, value = pseudo_gradient(model, two_parts(1), inner_optimizer="sgd", inner_lr=0.3)
    assert_close(gradients, {key: parameter.grad for key, parameter in own.named_parameters()}, rtol=1e-4, atol=1e-6)
    assert value == pytest.approx(loss.item(), rel=1e-5)
