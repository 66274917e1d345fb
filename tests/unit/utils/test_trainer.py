"""A training that is cut and resumed is the training that was not cut."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ltdi.store import read_tensors, write_tensors
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training, cosine


class Model(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        stream = generator(seed, "model")
        self.weight = nn.Parameter(torch.randn(3, 4, generator=stream))
        self.bias = nn.Parameter(torch.randn(3, generator=stream))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))

    def loss(self, step):
        x = torch.randn(16, 4, generator=generator(0, "x", step))
        self.mean.lerp_(x.mean(0), 0.1)
        self.count += 1
        return ((x - self.mean) @ self.weight.T + self.bias - x[:, :3].sin()).square().mean()


def training_of(model, **hparams):
    return Training(model, **({"lr": 0.05, "steps": 10, "ema": 0.9, "weight_decay": 0.01} | hparams))


def train(training, steps):
    for _ in range(steps):
        training.model.loss(training.step).backward()
        training.descend()
    return training


def snapshot(training):
    return {name: value.clone() for name, value in training.state_dict().items()}


@pytest.mark.parametrize("lr_schedule", ["cosine", "constant"])
def test_a_resumed_training_is_bit_for_bit_the_whole_one(tmp_path, lr_schedule):
    whole = train(training_of(Model(), lr_schedule=lr_schedule), 10)
    half = train(training_of(Model(), lr_schedule=lr_schedule), 5)
    write_tensors(tmp_path / "state.safetensors", half.state_dict(), kind="state")
    resumed = training_of(Model(seed=1), lr_schedule=lr_schedule)
    resumed.load_state_dict(read_tensors(tmp_path / "state.safetensors", kind="state")[0])
    assert resumed.step == 5
    train(resumed, 5)
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_training_that_has_not_started_can_be_resumed():
    fresh, resumed = training_of(Model()), training_of(Model(seed=1))
    resumed.load_state_dict(snapshot(fresh))
    assert_close(train(resumed, 3).state_dict(), train(fresh, 3).state_dict(), rtol=0, atol=0)


def test_without_schedule_and_average_it_is_adamw():
    training, model = train(training_of(Model(), lr_schedule="constant"), 10), Model()
    adam = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.01)
    for step in range(10):
        adam.zero_grad()
        model.loss(step).backward()
        adam.step()
    assert_close(training.model.state_dict(), model.state_dict())


def test_descend_clears_the_gradients():
    training = train(training_of(Model()), 1)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in training.model.parameters())


def test_gradients_lie_as_their_parameters_when_a_step_is_taken():
    training, plain = training_of(Model()), train(training_of(Model()), 1)
    training.model.loss(0).backward()
    weight, seen = training.model.weight, []
    weight.grad = weight.grad.T.contiguous().T
    assert weight.grad.stride() != weight.stride()
    training.optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad.stride()))
    training.descend()
    assert seen == [weight.stride()]
    assert_close(snapshot(training), snapshot(plain), rtol=0, atol=0)


# --- the average


def test_the_average_of_a_constant_model_is_the_constant():
    training = training_of(Model(), weight_decay=0.0)
    initialization = {name: value.clone() for name, value in training.average.items()}
    for _ in range(10):
        for parameter in training.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        training.descend()
    assert_close(training.average, initialization)


def test_the_average_moves_with_the_model_and_lags_behind_it():
    training = training_of(Model(), lr_schedule="constant")
    initialization = {name: value.clone() for name, value in training.average.items()}
    train(training, 10)
    for name in ("weight", "bias", "mean"):
        end = training.model.state_dict()[name]
        assert 0 < (training.average[name] - end).norm() < (initialization[name] - end).norm()
    assert training.average["count"] == 10


def test_the_average_is_the_recursion_written_out():
    training, expected = training_of(Model()), Model().weight.detach().double()
    for step in range(10):
        train(training, 1)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * training.model.weight.detach().double()
    assert_close(training.average["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_no_memory_is_the_model_itself():
    training = train(training_of(Model(), ema=0.0), 5)
    assert_close(training.average, dict(training.model.state_dict()))


def test_averaged_restores_the_model_also_after_an_error():
    training = train(training_of(Model()), 5)
    before = snapshot(training)
    with training.averaged() as model:
        assert model is training.model
        assert_close(dict(model.state_dict()), training.average, rtol=0, atol=0)
        assert not model.weight.equal(before["model/weight"])
    assert_close(training.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(KeyError), training.averaged():
        raise KeyError
    assert_close(training.state_dict(), before, rtol=0, atol=0)


def test_a_look_at_the_average_is_without_dropout():
    training = train(training_of(Model()), 5)
    with training.averaged() as model:
        assert not model.training
    assert training.model.training


def test_a_look_at_the_average_does_not_change_what_follows():
    looked, whole = train(training_of(Model()), 5), train(training_of(Model()), 10)
    with looked.averaged():
        pass
    assert_close(train(looked, 5).state_dict(), whole.state_dict(), rtol=0, atol=0)


# --- the learning rate


@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_cosine_rises_from_zero_to_one_and_falls_to_zero(steps):
    factors = torch.tensor([cosine(step, steps) for step in range(steps)])
    peak = factors.argmax().item()
    assert factors[0] == pytest.approx(min(1, 20 / steps))
    assert factors[peak] == pytest.approx(1) and peak + 1 == pytest.approx(0.05 * steps)
    assert (factors[: peak + 1].diff() > 0).all() and (factors[peak:].diff() < 0).all()
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_cosine_is_half_way_down_half_way_after_the_warm_up():
    assert cosine(step=59, steps=100, warmup=0.2) == pytest.approx(0.5)
    assert cosine(step=39, steps=100, warmup=0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_the_optimiser_sees_the_schedule():
    training = training_of(Model(), steps=40)
    for step in range(40):
        train(training, 1)
        assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * cosine(step, 40))
