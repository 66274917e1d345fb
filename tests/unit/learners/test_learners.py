"""Learners: a batch of weights is the weights one by one, and what any linear classifier looks like among them."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from ltdi.learners import LEARNERS, LinearHead, TwoLayerHead, learner_of
from ltdi.tasks.batch import ABSENT
from ltdi.tasks.class_tasks import labelled
from ltdi.utils.seeding import generator

B, N, M = 3, 4, 6


@pytest.fixture
def head():
    return TwoLayerHead(n_features=5, hidden=7)


def random(*shape):
    return torch.randn(*shape, generator=generator(0, "learners", shape))


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
    assert_close(head.logits(w, features), expected)


def test_permuting_the_classes_permutes_the_logits(head):
    w, features, order = random(B, head.space.dim(N)), random(B, M, 5), torch.tensor([2, 0, 3, 1])
    tokens = head.space.tokens(w)
    permuted = head.space.from_tokens(tokens | {"output": tokens["output"][:, order]})
    assert_close(head.logits(permuted, features), head.logits(w, features)[..., order])


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
    assert_close(head.logits(head.space.flatten(tensors), features), head.logits(w, features))


def test_the_start_is_gaussian_with_variance_one_over_fan_in():
    head = TwoLayerHead(n_features=50, hidden=40)
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
    inputs, labels = labelled(features).values()
    expected = torch.stack([F.cross_entropy(module_of(head, w[b])(inputs[b]), labels[b]) for b in range(B)])
    assert_close(head.loss(w, {"inputs": inputs, "labels": labels}), expected)


def test_a_head_of_zeros_loses_log_n(head):
    inputs, labels = labelled(random(B, N, 2, 5)).values()
    assert_close(
        head.loss(torch.zeros(B, head.space.dim(N)), {"inputs": inputs, "labels": labels}),
        torch.full((B,), float(N)).log(),
    )


def test_one_head_serves_tasks_of_any_number_of_classes(head):
    w, features = random(B, head.space.dim(9)), random(B, M, 5)
    few = head.space.from_tokens(
        {layer: tokens[:, :7] if layer == "hidden" else tokens[:, :2] for layer, tokens in head.space.tokens(w).items()}
    )
    assert few.shape == (B, head.space.dim(2))
    assert_close(head.logits(few, features), head.logits(w, features)[..., :2])


def test_losses_are_the_mean_over_the_images_that_are_there(head):
    w, features = random(B, head.space.dim(N)), random(B, N, 2, 5)
    inputs, labels = labelled(features).values()
    there = torch.tensor([[True] * 8, [True, False] * 4, [False] * 7 + [True]])
    expected = torch.stack(
        [F.cross_entropy(module_of(head, w[b])(inputs[b, there[b]]), labels[b, there[b]]) for b in range(B)]
    )
    assert_close(head.loss(w, {"inputs": inputs, "labels": torch.where(there, labels, ABSENT)}), expected)


# --- every learner

CLASSIFIERS = {
    "two layers": TwoLayerHead(5, 7),
    "two layers, floor": TwoLayerHead(5, 5, floor=-2.0),
    "linear": LinearHead(5),
}


@pytest.fixture(params=CLASSIFIERS.values(), ids=CLASSIFIERS)
def learner(request):
    return request.param


def test_a_learner_is_made_again_from_its_facts(learner):
    again = learner_of(json.loads(json.dumps(learner.facts())))
    assert type(again) is LEARNERS[learner.facts()["name"]]
    assert again.facts() == learner.facts() and again.space.shapes == learner.space.shapes
    w, inputs = random(B, learner.space.dim(N)), random(B, M, 5)
    assert again.logits(w, inputs).equal(learner.logits(w, inputs))
    rows, biases = random(B, N, 5), random(B, N)
    assert again.linear(rows, biases).equal(learner.linear(rows, biases))


def test_it_says_how_many_numbers_it_takes_and_gives(learner):
    w, batch = random(B, learner.space.dim(N)), labelled(random(B, N, 2, 5))
    assert learner.n_numbers == batch["inputs"].shape[-1]
    assert learner.reference(w, batch).shape == (learner.n_reference,)
    assert learner.initial(B, N, generator(0, "initial")).shape == w.shape
    assert learner.loss(w, batch).shape == learner.score(w, batch).shape == (B,)


def test_what_is_not_there_counts_neither_in_loss_nor_in_score_nor_in_the_reference(learner):
    w, batch = random(B, learner.space.dim(N)), labelled(random(B, N, 2, 5))
    there = torch.tensor([[True] * 8, [True, False] * 4, [False] * 7 + [True]])
    masked = {
        "inputs": torch.where(there[..., None], batch["inputs"], 1e6),
        "labels": torch.where(there, batch["labels"], ABSENT),
    }
    alone = [{name: value[b, there[b]][None] for name, value in batch.items()} for b in range(B)]
    for of in (learner.loss, learner.score):
        assert_close(of(w, masked), torch.cat([of(w[b : b + 1], alone[b]) for b in range(B)]))
    sizes = there.sum(1).tolist()
    references = [n * learner.reference(w[b : b + 1], alone[b]) for b, n in enumerate(sizes)]
    assert_close(learner.reference(w, masked), sum(references) / sum(sizes))


def test_any_linear_classifier_is_held_exactly_by_one_without_a_layer_between():
    weight, bias, inputs = random(B, N, 5), random(B, N), 100 * random(B, M, 5)
    learner = LinearHead(5)
    assert_close(learner.logits(learner.linear(weight, bias), inputs), inputs @ weight.mT + bias[:, None])


@pytest.mark.parametrize("hidden", [5, 9])
@pytest.mark.parametrize("floor", [0.0, -0.25, -3.0])
def test_a_head_with_a_floor_holds_it_on_all_that_is_not_below(floor, hidden):
    weight, bias = random(B, N, 5), random(B, N)
    inputs = floor + 4 * torch.rand(B, M, 5, generator=generator(0, "inputs"))
    inputs[:, 0] = floor
    head = TwoLayerHead(5, hidden, floor)
    w, expected = head.linear(weight, bias), inputs @ weight.mT + bias[:, None]
    assert_close(head.logits(w, inputs), expected, rtol=1e-4, atol=1e-5)
    # what is below counts as the floor: a head whose floor is too high is another classifier
    below = inputs.clone()
    below[:, 0] -= 1.0
    assert_close(head.logits(w, below), expected, rtol=1e-4, atol=1e-5)


def test_without_a_floor_it_is_the_head_it_always_was():
    weight, bias = random(B, N, 5), random(B, N)
    tensors = TwoLayerHead(5, 7).space.unflatten(TwoLayerHead(5, 7).linear(weight, bias))
    assert not tensors["hidden.bias"].any()
    assert tensors["output.bias"].equal(bias)
    assert tensors["hidden.weight"].equal(torch.eye(7, 5).expand(B, -1, -1))


def test_the_start_of_a_linear_head_is_gaussian_with_variance_one_over_fan_in():
    head = LinearHead(50)
    w = head.space.unflatten(head.initial(200, 10, generator(0, "initial")))
    scaled = w["output.weight"] * 50**0.5
    assert scaled.mean().abs() < 0.02
    assert scaled.var().item() == pytest.approx(1, abs=0.02)
    assert scaled.pow(4).mean().item() == pytest.approx(3, abs=0.2)
    assert not w["output.bias"].any()


def test_counting_biases_elsewhere_is_linear_and_undone_by_the_opposite(learner):
    w, other, reference = random(B, learner.space.dim(N)), random(2, B, learner.space.dim(N))[0], random(7, 1)[:, 0]
    reference = reference[: learner.n_reference]
    assert_close(learner.rebased(learner.rebased(w, reference), -reference), w)
    assert_close(
        learner.rebased(w + 2 * other, reference),
        learner.rebased(w, reference) + 2 * learner.rebased(other, reference),
        rtol=1e-4,
        atol=1e-5,
    )
    assert learner.rebased(w, torch.zeros_like(reference)).equal(w)


def test_a_bias_counted_at_the_reference_is_the_logit_there(learner):
    """What the last layer sees of the batch is in the mean the reference, and logits are linear in it."""
    w = random(1, learner.space.dim(N))
    batch = labelled(random(1, N, 3, 5))
    rebased = learner.space.unflatten(learner.rebased(w, learner.reference(w, batch)))
    assert_close(rebased["output.bias"], learner.logits(w, batch["inputs"]).mean(1), rtol=1e-4, atol=1e-5)
