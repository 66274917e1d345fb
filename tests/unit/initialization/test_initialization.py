"""Classifiers with a closed form, as the weights of learners."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.closed_form import (
    PENALTIES,
    TEMPERATURES,
    calibrated_temperature,
    prototype_weights,
    ridge_weights,
)
from ltdi.learners import LinearHead, TwoLayerHead
from ltdi.tasks.base import Context, Task
from ltdi.tasks.batch import ABSENT
from ltdi.tasks.class_tasks import context_of, labelled
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import accuracy, nearest_mean_accuracy
from ltdi.utils.seeding import generator

B, N, K, Q, F = 6, 5, 3, 20, 12


def features(*shape, spread=1.0):
    """Non-negative features (B, N, M, F) around class centres, as a body with a last ReLU gives them."""
    centres = torch.rand(B, N, 1, F, generator=generator(0, "centres"))
    return (centres + spread * torch.randn(*shape, generator=generator(0, "features", shape))).relu()


LEARNERS = {
    "hidden = features": TwoLayerHead(F, F),
    "hidden > features": TwoLayerHead(F, F + 7),
    "floor": TwoLayerHead(F, F + 7, floor=-1.5),
    "linear": LinearHead(F),
}


@pytest.fixture(params=LEARNERS.values(), ids=LEARNERS)
def head(request):
    return request.param


@pytest.fixture
def support():
    return context_of(features(B, N, K, F))


@pytest.fixture
def query():
    return labelled(features(B, N, Q, F))


HEADS = {
    "prototype": lambda head, support: prototype_weights(head, support.means, 0.7),
    "ridge": lambda head, support: ridge_weights(head, support, 0.3, 2.0),
}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def closed_form(request):
    return request.param


# --- the classifiers


def test_prototype_logits_are_squared_distances_up_to_what_the_classes_share(head, support, query):
    inputs = query["inputs"]
    logits = head.logits(prototype_weights(head, support.means, 0.7), inputs)
    expected = -0.7 * (inputs[:, :, None] - support.means[:, None]).square().sum(-1)
    shared = 0.7 * inputs.square().sum(-1, keepdim=True)
    assert_close(logits, expected + shared, rtol=1e-4, atol=1e-4)


def test_prototype_predicts_the_nearest_class_mean(head, support, query):
    inputs, labels = query["inputs"], query["labels"]
    logits = head.logits(prototype_weights(head, support.means, 0.7), inputs)
    nearest = torch.cdist(inputs, support.means).argmin(-1)
    assert logits.argmax(-1).equal(nearest)
    scores = accuracy(logits, labels)
    assert scores.equal(nearest_mean_accuracy(support.means, inputs, labels))
    assert 1 / N < scores.mean() < 1


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_ridge_solves_the_normal_equations(head, support, query, penalty):
    x = support.rows.flatten(1, 2).double()
    y = 2 * torch.eye(N, dtype=torch.float64).repeat_interleave(K, 0) - 1
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(0)
    gram = (x - x_mean).mT @ (x - x_mean) + penalty * torch.eye(F, dtype=torch.float64)
    weight = torch.linalg.solve(gram, (x - x_mean).mT @ (y - y_mean))
    inputs = query["inputs"]
    expected = (inputs.double() - x_mean) @ weight + y_mean
    logits = head.logits(ridge_weights(head, support, penalty, temperature=2.0), inputs)
    assert_close(logits.double(), 2 * expected, rtol=1e-3, atol=1e-3)


def test_ridge_without_penalty_passes_through_its_labels_and_with_much_through_their_mean(head, support):
    few = Context(support.rows[:, :, :2])
    inputs, labels = labelled(few.rows).values()
    exact = head.logits(ridge_weights(head, few, 1e-5, 1.0), inputs)
    assert_close(exact, 2 * torch.nn.functional.one_hot(labels, N).float() - 1, rtol=0, atol=1e-2)
    flat = head.logits(ridge_weights(head, few, 1e9, 1.0), inputs)
    assert_close(flat, torch.full_like(flat, 2 / N - 1), rtol=0, atol=1e-4)


def test_any_linear_classifier_can_be_written(head, query):
    weight, bias = torch.randn(B, N, F, generator=generator(0, "w")), torch.randn(B, N, generator=generator(0, "b"))
    inputs = query["inputs"]
    assert_close(head.logits(head.linear(weight, bias), inputs), inputs @ weight.mT + bias[:, None])


# --- what both keep


def test_a_batch_is_its_tasks_one_by_one(head, support, closed_form):
    together = closed_form(head, support)
    alone = torch.cat([closed_form(head, support[b : b + 1]) for b in range(B)])
    assert together.shape == (B, head.space.dim(N))
    assert_close(together, alone)


def test_permuting_the_classes_permutes_the_logits(head, support, query, closed_form):
    order = torch.tensor([3, 0, 4, 2, 1])
    inputs = query["inputs"]
    permuted = head.logits(closed_form(head, Context(support.rows[:, order])), inputs)
    assert_close(permuted, head.logits(closed_form(head, support), inputs)[..., order], rtol=1e-4, atol=1e-4)


def test_the_temperature_multiplies_the_logits(head, support, query):
    inputs = query["inputs"]
    assert_close(
        head.logits(prototype_weights(head, support.means, 3.0), inputs),
        3 * head.logits(prototype_weights(head, support.means, 1.0), inputs),
        rtol=1e-4,
        atol=1e-4,
    )
    assert_close(
        head.logits(ridge_weights(head, support, 0.5, 3.0), inputs),
        3 * head.logits(ridge_weights(head, support, 0.5, 1.0), inputs),
        rtol=1e-4,
        atol=1e-5,
    )


def test_spare_hidden_units_are_zero(support, closed_form):
    tensors = TwoLayerHead(F, F + 7).space.unflatten(closed_form(TwoLayerHead(F, F + 7), support))
    assert not tensors["hidden.weight"][:, F:].any() and not tensors["output.weight"][:, :, F:].any()


def test_a_linear_head_holds_the_classifier_itself(support):
    head = LinearHead(F)
    tensors = head.space.unflatten(prototype_weights(head, support.means, 0.7))
    assert_close(tensors["output.weight"], 1.4 * support.means)
    assert_close(tensors["output.bias"], -0.7 * support.means.square().sum(-1))


@pytest.mark.parametrize("normalise", ["unit", "centred"])
def test_on_features_of_unit_length_it_is_the_cosine_to_a_single_example_and_the_nearest_mean_of_several(normalise):
    """One-shot prototypes are of unit length themselves; the head's floor lets numbers below zero through."""
    rows, queries = features(B, N, K, F) - 0.4, features(B, N, Q, F) - 0.4
    seen = FeatureMap(normalise, mean=torch.linspace(-0.5, 0.5, F))
    head = TwoLayerHead(F, F, seen.floor(rows))
    inputs, labels = labelled(seen(queries)).values()
    one = Context(seen(rows)[:, :, :1])
    logits = head.logits(prototype_weights(head, one.means, 0.7), inputs)
    centre = seen.mean if normalise == "centred" else 0.0
    cosine = torch.nn.functional.cosine_similarity(
        (queries - centre).flatten(1, 2)[:, :, None], (rows[:, :, 0] - centre)[:, None], dim=-1
    )
    # −τ‖f − p‖² + τ‖f‖² with ‖f‖² = ‖p‖² = F
    assert_close(logits, 0.7 * F * (2 * cosine - 1), rtol=1e-4, atol=1e-4)
    assert logits.argmax(-1).equal(cosine.argmax(-1))
    several = Context(seen(rows))
    scores = head.score(prototype_weights(head, several.means, 0.7), {"inputs": inputs, "labels": labels})
    assert_close(scores, nearest_mean_accuracy(several.means, inputs, labels))


def test_fewer_hidden_units_than_features_are_refused(support, closed_form):
    with pytest.raises(InputError, match=rf"hidden = {F - 1}\b.*\b{F} features"):
        closed_form(TwoLayerHead(F, F - 1), support)


# --- classes of unequal numbers of images


def unequal(shots, n_shot=4, spoilt=0.0):
    """Support of ``shots`` (B, N) images a class; what is not there is ``spoilt``."""
    mask = torch.arange(n_shot) < shots[..., None]
    return Context(features(B, N, n_shot, F).where(mask[..., None], spoilt), mask=mask)


SHOTS = 1 + torch.randint(4, (B, N), generator=generator(0, "shots"))


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_ridge_solves_the_normal_equations_of_the_images_that_are_there(head, query, penalty):
    support = unequal(SHOTS, spoilt=1e3)
    inputs = query["inputs"].double()
    logits = head.logits(ridge_weights(head, support, penalty, 2.0), inputs.float()).double()
    for b in range(B):
        x = torch.cat([support.rows[b, n, : SHOTS[b, n]] for n in range(N)]).double()
        y = 2 * torch.eye(N, dtype=torch.float64).repeat_interleave(SHOTS[b], 0) - 1
        # an unpenalised column of ones is the bias; the penalty is rows of data that ask for zero weights
        rows = torch.cat([x, torch.ones(len(x), 1)], 1), torch.cat([penalty**0.5 * torch.eye(F), torch.zeros(F, 1)], 1)
        solution = torch.linalg.lstsq(torch.cat(rows).double(), torch.cat([y, torch.zeros(F, N)])).solution
        assert_close(logits[b], 2 * (inputs[b] @ solution[:-1] + solution[-1]), rtol=1e-3, atol=1e-3)


def test_a_prototype_is_the_mean_of_its_own_images(head):
    support = unequal(SHOTS, spoilt=1e3)
    means = torch.stack([torch.stack([support.rows[b, n, : SHOTS[b, n]].mean(0) for n in range(N)]) for b in range(B)])
    assert_close(HEADS["prototype"](head, support), prototype_weights(head, means, 0.7))


def test_what_is_not_there_changes_nothing(head, closed_form):
    assert_close(closed_form(head, unequal(SHOTS, spoilt=1e3)), closed_form(head, unequal(SHOTS)), rtol=0, atol=0)


@pytest.mark.parametrize("n_shot", [1, 3])
def test_a_mask_that_leaves_equal_numbers_is_a_smaller_support(head, closed_form, n_shot):
    masked = unequal(torch.full((B, N), n_shot), spoilt=1e3)
    assert_close(
        closed_form(head, masked), closed_form(head, Context(masked.rows[:, :, :n_shot])), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("n_way", [2, 9])
def test_a_prototype_does_not_see_how_many_classes_there_are(head, n_way):
    means = torch.rand(B, 9, F, generator=generator(0, "means"))
    few, nine = (head.space.unflatten(prototype_weights(head, each, 0.7)) for each in (means[:, :n_way], means))
    assert few["output.weight"].equal(nine["output.weight"][:, :n_way]) and few["output.bias"].equal(
        nine["output.bias"][:, :n_way]
    )


def test_the_order_of_a_classs_images_changes_nothing(head, support, closed_form):
    assert_close(closed_form(head, Context(support.rows.flip(2))), closed_form(head, support), rtol=1e-4, atol=1e-4)


# --- calibration


class OneBatch(Task):
    """A table of these tasks alone."""

    def __len__(self):
        return len(self.context)

    def batch(self, tasks):
        return Task(self.context[tasks], {name: value[tasks] for name, value in self.query.items()})


def test_the_calibrated_temperature_is_the_best_of_its_grid(head, support, query):
    table = OneBatch(support, query)
    tau, least = calibrated_temperature(head, table, lambda context: prototype_weights(head, context.means, 1.0))
    losses = torch.stack([head.loss(prototype_weights(head, support.means, t), query).mean() for t in TEMPERATURES])
    assert TEMPERATURES[0] < tau < TEMPERATURES[-1]
    assert tau == TEMPERATURES[losses.argmin()]
    assert least == pytest.approx(losses.min().item(), rel=1e-5)


def test_a_table_is_calibrated_on_by_parts_as_in_one_piece(head, support, query):
    """Parts of unequal numbers of queries and of tasks: each query counts once."""
    many = Context(torch.cat([support.rows] * 50))
    labels = torch.cat([query["labels"]] * 50)
    labels[64:] = labels[64:].where(torch.arange(labels.shape[1]) % 3 > 0, ABSENT)
    asked = {"inputs": torch.cat([query["inputs"]] * 50), "labels": labels}
    tau, least = calibrated_temperature(
        head, OneBatch(many, asked), lambda context: prototype_weights(head, context.means, 1.0)
    )
    logits = head.logits(prototype_weights(head, many.means, tau), asked["inputs"]).flatten(0, 1)
    whole = torch.nn.functional.cross_entropy(logits, labels.flatten())
    assert len(many) > 128 and least == pytest.approx(whole.item(), rel=1e-5)


def test_the_calibrated_temperature_undoes_a_scale_of_the_features(head, support, query):
    def calibrated(scale):
        scaled = Context(scale * support.rows)
        asked = query | {"inputs": scale * query["inputs"]}
        table = OneBatch(scaled, asked)
        return calibrated_temperature(head, table, lambda context: prototype_weights(head, context.means, 1.0))[0]

    assert calibrated(2.0) == calibrated(1.0) / 4


@pytest.mark.parametrize("kind", ["prototype", "ridge"])
def test_a_start_is_calibrated_on_the_queries_of_its_tasks_and_on_those_that_are_there(kind, head, support, query):
    shared = torch.zeros(head.space.dim(N))
    initialization = INITIALIZATIONS[kind](head, shared, temperature=99.0)
    found = initialization.calibrated(OneBatch(support, query))
    penalties = PENALTIES if kind == "ridge" else (found.ridge,)
    losses = {
        (penalty, t): head.loss(replace(initialization, ridge=penalty, temperature=t).centre(support), query)
        .mean()
        .item()
        for penalty in penalties
        for t in TEMPERATURES
    }
    least = losses[found.ridge, found.temperature]
    assert least == pytest.approx(min(losses.values()), rel=1e-4)

    # queries that are not there, whose labels would be wrong, change nothing
    spoilt = {
        "inputs": torch.cat([query["inputs"], query["inputs"].flip(1)], 1),
        "labels": torch.cat([query["labels"], torch.full_like(query["labels"], ABSENT)], 1),
    }
    again = initialization.calibrated(OneBatch(support, spoilt))
    assert (again.ridge, again.temperature) == (found.ridge, found.temperature)


def test_a_learner_that_is_no_classifier_has_no_closed_form(support):
    class Other:
        pass

    for kind in ("prototype", "ridge"):
        with pytest.raises(InputError, match=f"start {kind} is a linear classifier, which Other does not hold"):
            INITIALIZATIONS[kind](Other(), torch.zeros(1)).centre(support)
