"""The head: a batch of heads is the heads one by one."""

import pytest
import torch
import torch.nn.functional as F
from ltdi.heads import Head, task_losses
from torch import nn
from torch.testing import assert_close

from ltdi.seeding import generator
from ltdi.tasks import ABSENT, labelled

B, N, M = 3, 4, 6


@pytest.fixture
def head():
    return Head(n_features=5, hidden=7)


def random(*shape):
    return torch.randn(*shape, generator=generator(0, "heads", shape))


def module_of(head, w):
    tensors = head.space.unflatten(w)
    module = nn.Sequential(
        nn.Linear(head.n_features, head.hidden), nn.ReLU(), nn.Linear(head.hidden, len(tensors["output.bias"]))
    )
    module.load_state_dict(
        {
            "0.weight": tensors["hidden.weight"],
            "0.bias": tensors["hidden.bias"],
            "2.weight": tensors["output.weight"],
            "2.bias": tensors["output.bias"],
        }
    )
    return module


def test_it_is_two_linear_layers_of_each_task(head):
    w, features = random(B, head.space.dim(N)), random(B, M, 5)
    expected = torch.stack([module_of(head, w[b])(features[b]) for b in range(B)])
    assert_close(head(w, features), expected)


def test_permuting_the_classes_permutes_the_logits(head):
    w, features, order = random(B, head.space.dim(N)), random(B, M, 5), torch.tensor([2, 0, 3, 1])
    tokens = head.space.tokens(w)
    permuted = head.space.from_tokens(tokens | {"output": tokens["output"][:, order]})
    assert_close(head(permuted, features), head(w, features)[..., order])


def test_permuting_the_hidden_units_changes_nothing(head):
    w, features, order = (
        random(B, head.space.dim(N)),
        random(B, M, 5),
        torch.randperm(7, generator=generator(0, "order")),
    )
    tensors = head.space.unflatten(w)
    tensors |= {name: tensors[name][:, order] for name in ("hidden.weight", "hidden.bias")} | {
        "output.weight": tensors["output.weight"][..., order]
    }
    assert_close(head(head.space.flatten(tensors), features), head(w, features))


def test_the_start_is_gaussian_with_variance_one_over_fan_in():
    head = Head(n_features=50, hidden=40)
    w = head.space.unflatten(head.initial(200, 10, generator(0, "initial")))
    for name, fan_in in (("hidden.weight", 50), ("output.weight", 40)):
        scaled = w[name] * fan_in**0.5
        assert scaled.mean().abs() < 0.02
        assert scaled.var().item() == pytest.approx(1, abs=0.02)
        # kurtosis 3: not the uniform law of torch's own layers, which has 1.8
        assert scaled.pow(4).mean().item() == pytest.approx(3, abs=0.2)
    assert not w["hidden.bias"].any() and not w["output.bias"].any()


def test_the_start_depends_on_the_generator_alone(head):
    assert head.initial(B, N, generator(0, "a")).equal(head.initial(B, N, generator(0, "a")))
    assert not head.initial(B, N, generator(0, "a")).equal(head.initial(B, N, generator(0, "b")))
    assert len(head.initial(B, N, generator(0, "a")).unique(dim=0)) == B


def test_losses_are_the_cross_entropy_of_each_task(head):
    w, features = random(B, head.space.dim(N)), random(B, N, 2, 5)
    inputs, labels = labelled(features)
    expected = torch.stack([F.cross_entropy(module_of(head, w[b])(inputs[b]), labels[b]) for b in range(B)])
    assert_close(task_losses(head, w, inputs, labels), expected)


def test_a_head_of_zeros_loses_log_n(head):
    inputs, labels = labelled(random(B, N, 2, 5))
    assert_close(task_losses(head, torch.zeros(B, head.space.dim(N)), inputs, labels), torch.full((B,), float(N)).log())


def test_one_head_serves_tasks_of_any_number_of_classes(head):
    w, features = random(B, head.space.dim(9)), random(B, M, 5)
    few = head.space.from_tokens(
        {layer: tokens[:, :7] if layer == "hidden" else tokens[:, :2] for layer, tokens in head.space.tokens(w).items()}
    )
    assert few.shape == (B, head.space.dim(2))
    assert_close(head(few, features), head(w, features)[..., :2])


def test_losses_are_the_mean_over_the_images_that_are_there(head):
    w, features = random(B, head.space.dim(N)), random(B, N, 2, 5)
    inputs, labels = labelled(features)
    there = torch.tensor([[True] * 8, [True, False] * 4, [False] * 7 + [True]])
    expected = torch.stack(
        [F.cross_entropy(module_of(head, w[b])(inputs[b, there[b]]), labels[b, there[b]]) for b in range(B)]
    )
    assert_close(task_losses(head, w, inputs, torch.where(there, labels, ABSENT)), expected)
