"""Classifiers with a closed form, as two-layer heads."""

import pytest
import torch
from ltdi.closed_form import TEMPERATURES, calibrated_temperature, linear_head, prototype_head, ridge_head
from ltdi.heads import Head, task_losses
from torch.testing import assert_close

from ltdi.errors import InputError
from ltdi.metrics import accuracy, nearest_mean_accuracy
from ltdi.seeding import generator
from ltdi.tasks import Query, Support, labelled

B, N, K, Q, F = 6, 5, 3, 20, 12


def features(*shape, spread=1.0):
    """Non-negative features (B, N, M, F) around class centres, as a body with a last ReLU gives them."""
    centres = torch.rand(B, N, 1, F, generator=generator(0, "centres"))
    return (centres + spread * torch.randn(*shape, generator=generator(0, "features", shape))).relu()


@pytest.fixture(params=[F, F + 7], ids=["hidden = features", "hidden > features"])
def head(request):
    return Head(F, request.param)


@pytest.fixture
def support():
    return Support(features(B, N, K, F))


@pytest.fixture
def query():
    return Query(features(B, N, Q, F))


HEADS = {
    "prototype": lambda head, support: prototype_head(head, support.class_means, 0.7),
    "ridge": lambda head, support: ridge_head(head, support, 0.3, 2.0),
}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def closed_form(request):
    return request.param


# --- the classifiers


def test_prototype_logits_are_squared_distances_up_to_what_the_classes_share(head, support, query):
    inputs, _ = labelled(query.features)
    logits = head(prototype_head(head, support.class_means, 0.7), inputs)
    expected = -0.7 * (inputs[:, :, None] - support.class_means[:, None]).square().sum(-1)
    shared = 0.7 * inputs.square().sum(-1, keepdim=True)
    assert_close(logits, expected + shared, rtol=1e-4, atol=1e-4)


def test_prototype_predicts_the_nearest_class_mean(head, support, query):
    inputs, labels = labelled(query.features)
    logits = head(prototype_head(head, support.class_means, 0.7), inputs)
    nearest = torch.cdist(inputs, support.class_means).argmin(-1)
    assert logits.argmax(-1).equal(nearest)
    scores = accuracy(logits, labels)
    assert scores.equal(nearest_mean_accuracy(support.features, query.features))
    assert 1 / N < scores.mean() < 1


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_ridge_solves_the_normal_equations(head, support, query, penalty):
    x = support.features.flatten(1, 2).double()
    y = 2 * torch.eye(N, dtype=torch.float64).repeat_interleave(K, 0) - 1
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(0)
    gram = (x - x_mean).mT @ (x - x_mean) + penalty * torch.eye(F, dtype=torch.float64)
    weight = torch.linalg.solve(gram, (x - x_mean).mT @ (y - y_mean))
    inputs, _ = labelled(query.features)
    expected = (inputs.double() - x_mean) @ weight + y_mean
    logits = head(ridge_head(head, support, penalty, temperature=2.0), inputs)
    assert_close(logits.double(), 2 * expected, rtol=1e-3, atol=1e-3)


def test_ridge_without_penalty_passes_through_its_labels_and_with_much_through_their_mean(head, support):
    few = Support(support.features[:, :, :2])
    inputs, labels = labelled(few.features)
    exact = head(ridge_head(head, few, 1e-5, 1.0), inputs)
    assert_close(exact, 2 * torch.nn.functional.one_hot(labels, N).float() - 1, rtol=0, atol=1e-2)
    flat = head(ridge_head(head, few, 1e9, 1.0), inputs)
    assert_close(flat, torch.full_like(flat, 2 / N - 1), rtol=0, atol=1e-4)


def test_any_linear_classifier_can_be_written(head, query):
    weight, bias = torch.randn(B, N, F, generator=generator(0, "w")), torch.randn(B, N, generator=generator(0, "b"))
    inputs, _ = labelled(query.features)
    assert_close(head(linear_head(head, weight, bias), inputs), inputs @ weight.mT + bias[:, None])


# --- what both keep


def test_a_batch_is_its_tasks_one_by_one(head, support, closed_form):
    together = closed_form(head, support)
    alone = torch.cat([closed_form(head, support[b : b + 1]) for b in range(B)])
    assert together.shape == (B, head.space.dim(N))
    assert_close(together, alone)


def test_permuting_the_classes_permutes_the_logits(head, support, query, closed_form):
    order = torch.tensor([3, 0, 4, 2, 1])
    inputs, _ = labelled(query.features)
    permuted = head(closed_form(head, Support(support.features[:, order])), inputs)
    assert_close(permuted, head(closed_form(head, support), inputs)[..., order], rtol=1e-4, atol=1e-4)


def test_the_temperature_multiplies_the_logits(head, support, query):
    inputs, _ = labelled(query.features)
    assert_close(
        head(prototype_head(head, support.class_means, 3.0), inputs),
        3 * head(prototype_head(head, support.class_means, 1.0), inputs),
    )
    assert_close(
        head(ridge_head(head, support, 0.5, 3.0), inputs),
        3 * head(ridge_head(head, support, 0.5, 1.0), inputs),
        rtol=1e-4,
        atol=1e-5,
    )


def test_spare_hidden_units_are_zero(support, closed_form):
    tensors = Head(F, F + 7).space.unflatten(closed_form(Head(F, F + 7), support))
    assert not tensors["hidden.weight"][:, F:].any() and not tensors["output.weight"][:, :, F:].any()


def test_fewer_hidden_units_than_features_are_refused(support, closed_form):
    with pytest.raises(InputError, match=rf"hidden = {F - 1}\b.*\b{F} features"):
        closed_form(Head(F, F - 1), support)


# --- classes of unequal numbers of images


def unequal(shots, n_shot=4, spoilt=0.0):
    """Support of ``shots`` (B, N) images a class; what is not there is ``spoilt``."""
    mask = torch.arange(n_shot) < shots[..., None]
    return Support(features(B, N, n_shot, F).where(mask[..., None], spoilt), mask=mask)


SHOTS = 1 + torch.randint(4, (B, N), generator=generator(0, "shots"))


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_ridge_solves_the_normal_equations_of_the_images_that_are_there(head, query, penalty):
    support = unequal(SHOTS, spoilt=1e3)
    inputs = labelled(query.features)[0].double()
    logits = head(ridge_head(head, support, penalty, 2.0), inputs.float()).double()
    for b in range(B):
        x = torch.cat([support.features[b, n, : SHOTS[b, n]] for n in range(N)]).double()
        y = 2 * torch.eye(N, dtype=torch.float64).repeat_interleave(SHOTS[b], 0) - 1
        # an unpenalised column of ones is the bias; the penalty is rows of data that ask for zero weights
        rows = torch.cat([x, torch.ones(len(x), 1)], 1), torch.cat([penalty**0.5 * torch.eye(F), torch.zeros(F, 1)], 1)
        solution = torch.linalg.lstsq(torch.cat(rows).double(), torch.cat([y, torch.zeros(F, N)])).solution
        assert_close(logits[b], 2 * (inputs[b] @ solution[:-1] + solution[-1]), rtol=1e-3, atol=1e-3)


def test_a_prototype_is_the_mean_of_its_own_images(head):
    support = unequal(SHOTS, spoilt=1e3)
    means = torch.stack(
        [torch.stack([support.features[b, n, : SHOTS[b, n]].mean(0) for n in range(N)]) for b in range(B)]
    )
    assert_close(HEADS["prototype"](head, support), prototype_head(head, means, 0.7))


def test_what_is_not_there_changes_nothing(head, closed_form):
    assert_close(closed_form(head, unequal(SHOTS, spoilt=1e3)), closed_form(head, unequal(SHOTS)), rtol=0, atol=0)


@pytest.mark.parametrize("n_shot", [1, 3])
def test_a_mask_that_leaves_equal_numbers_is_a_smaller_support(head, closed_form, n_shot):
    masked = unequal(torch.full((B, N), n_shot), spoilt=1e3)
    assert_close(
        closed_form(head, masked), closed_form(head, Support(masked.features[:, :, :n_shot])), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("n_way", [2, 9])
def test_a_prototype_does_not_see_how_many_classes_there_are(head, n_way):
    means = torch.rand(B, 9, F, generator=generator(0, "means"))
    few, nine = (head.space.unflatten(prototype_head(head, each, 0.7)) for each in (means[:, :n_way], means))
    assert few["output.weight"].equal(nine["output.weight"][:, :n_way]) and few["output.bias"].equal(
        nine["output.bias"][:, :n_way]
    )


def test_the_order_of_a_classs_images_changes_nothing(head, support, closed_form):
    assert_close(closed_form(head, Support(support.features.flip(2))), closed_form(head, support), rtol=1e-4, atol=1e-4)


# --- calibration


def test_the_calibrated_temperature_is_the_best_of_its_grid(head, support, query):
    tau, least = calibrated_temperature(head, prototype_head(head, support.class_means, 1.0), query)
    inputs, labels = labelled(query.features)
    losses = torch.stack(
        [task_losses(head, prototype_head(head, support.class_means, t), inputs, labels).mean() for t in TEMPERATURES]
    )
    assert TEMPERATURES[0] < tau < TEMPERATURES[-1]
    assert tau == TEMPERATURES[losses.argmin()]
    assert least == pytest.approx(losses.min().item(), rel=1e-5)


def test_the_calibrated_temperature_undoes_a_scale_of_the_features(head, support, query):
    def calibrated(scale):
        scaled = Support(scale * support.features)
        return calibrated_temperature(
            head, prototype_head(head, scaled.class_means, 1.0), Query(scale * query.features)
        )[0]

    assert calibrated(2.0) == calibrated(1.0) / 4
