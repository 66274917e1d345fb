"""Ridge regression whose penalty the task's rows tell: special cases, the statistic, the fit, what it is for."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ltdi.initialization import INITIALIZATIONS, initialization_of
from ltdi.initialization.adaptive_ridge import AdaptiveRidge, _described, _Sums, _tasks
from ltdi.initialization.closed_form import Ridge, ridge_weights
from ltdi.learners import LinearHead, TwoLayerHead
from ltdi.tasks.base import Task
from ltdi.tasks.batch import ABSENT
from ltdi.tasks.class_tasks import Classes, ClassTasks, context_of, labelled
from ltdi.utils.seeding import generator

B, N, K, F = 4, 5, 3, 24
HEADS = {"linear": LinearHead(F), "two layers": TwoLayerHead(F, F + 3)}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def head(request):
    return request.param


@pytest.fixture
def support():
    return context_of(torch.rand(B, N, K, F, generator=generator(0, "support")))


def initialization(head, *log_penalty, temperature=1.0):
    return AdaptiveRidge(head, torch.zeros(1), temperature=temperature, log_penalty=log_penalty)


# --- the penalty


def test_penalties_of_tasks_are_those_of_each_alone(head, support):
    penalty, temperature = torch.tensor([0.01, 1.0, 30.0, 500.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    alone = [ridge_weights(head, support[i : i + 1], penalty[i].item(), temperature[i].item()) for i in range(B)]
    assert_close(ridge_weights(head, support, penalty, temperature), torch.cat(alone))


def test_with_a_constant_alone_it_is_ridge_with_the_mean_squared_length(head, support):
    x = support.rows.flatten(1, 2)
    size = (x - x.mean(1, keepdim=True)).square().sum(-1).mean(1)
    w = initialization(head, math.log(0.3), 0.0, 0.0, 0.0, temperature=2.0).centre(support)
    assert_close(w, ridge_weights(head, support, 0.3 * size, 2.0))


def test_what_features_are_measured_in_does_not_matter(support):
    head, asked = LinearHead(F), torch.rand(B, 7, F, generator=generator(0, "asked"))
    of = initialization(head, 0.2, 0.7, 0.3, -0.1)
    logits = head.logits(of.centre(support), asked)
    scaled = head.logits(of.centre(context_of(30 * support.rows)), 30 * asked)
    assert_close(scaled, logits, rtol=1e-3, atol=1e-4)


def test_the_spread_of_rows_in_all_directions_is_1_and_in_one_direction_least():
    everywhere = torch.eye(6)[None, :, None]  # six classes, a row of each
    _, size, phi = _described(context_of(everywhere))
    assert_close(size, torch.tensor([5 / 6]))
    assert_close(phi, torch.tensor([[1.0, 0.0, 0.0, math.log(6)]]), rtol=0, atol=1e-6)
    line = torch.arange(6.0)[None, :, None, None] * torch.ones(6)
    _, _, phi = _described(context_of(line))
    assert_close(phi[0, 1], torch.tensor(math.log(1 / 5)))


def test_rows_that_are_not_there_change_nothing(head, support):
    mask = torch.ones(B, N, K, dtype=torch.bool)
    mask[:, 2:, 1:] = False
    held = context_of(torch.where(mask[..., None], support.rows, 9.0), mask)
    of = initialization(head, 0.2, 0.7, 0.3, -0.1)
    _, size, phi = _described(held)
    rows = support.rows[mask].unflatten(0, (B, -1))
    centred = rows - rows.mean(1, keepdim=True)
    assert_close(size, centred.square().sum(-1).mean(1))
    gram = centred @ centred.mT
    spread = gram.diagonal(dim1=1, dim2=2).sum(1) ** 2 / gram.square().sum((1, 2)) / (rows.shape[1] - 1)
    assert_close(phi[:, 1], spread.log())
    assert_close(phi[:, 2].exp(), torch.full((B,), 9 / 5))
    penalty = size * (phi @ torch.tensor([0.2, 0.7, 0.3, -0.1])).exp()
    assert_close(of.centre(held), ridge_weights(head, held, penalty, 1.0))


def test_one_row_that_all_classes_share_gives_finite_weights(head):
    assert initialization(head, 0.0, 1.0, 1.0, 1.0).centre(context_of(torch.ones(1, 2, 1, F))).isfinite().all()


# --- the fit


def test_the_loss_of_the_fit_is_that_of_the_weights(support):
    head, asked = LinearHead(F), torch.rand(B, N, 4, F, generator=generator(0, "asked"))
    query = labelled(asked)
    query["labels"][0, 3:] = ABSENT
    a, b = torch.tensor([[0.2, 0.7, 0.3, -0.1], [0.5, 0.1, -0.2, 0.3]], dtype=torch.float64)
    _, _, phi = _described(support)
    w = initialization(head, *a.tolist()).centre(support)
    logits = (phi @ b.float()).exp()[:, None, None] * head.logits(w, query["inputs"])
    there = query["labels"] >= 0
    of_weights = torch.nn.functional.cross_entropy(logits[there], query["labels"][there])
    assert_close(_Sums.of(Task(support, query)).loss(a, b).float(), of_weights)


def families(split, spreads=("even", "narrow"), n_classes=20, n_images=16):
    """Classes as different in all directions as their images ("even"), or whose images mostly differ along four that
    all share ("narrow"): what a small penalty learns to leave out, and a large one trusts."""
    stream, parts = generator(0, "families", split), []
    for spread in spreads:
        means = torch.randn(n_classes, 1, F, generator=stream)
        noise = torch.randn(n_classes, n_images, F, generator=stream)
        if spread == "narrow":
            shared = torch.randn(4, F, generator=generator(0, "shared", split))
            means, noise = 0.3 * means, 0.1 * noise + torch.randn(n_classes, n_images, 4, generator=stream) @ shared
        parts.append(means + noise)
    features = torch.cat(parts).flatten(0, 1)
    of = Classes(features, torch.full((n_classes * len(spreads),), n_images))
    return ClassTasks.sample(
        of, n_tasks=40, n_way=5, n_shot=min(5, n_images // 2), n_query=n_images // 4, seed=0, split=split
    )


class Both(ClassTasks):
    """Tasks of either kind of class."""

    @property
    def parts(self):
        return [families("val", ("even",)), families("val", ("narrow",))]


def test_the_fit_takes_less_penalty_where_images_differ_in_few_directions():
    own = families("val")
    val = Both(own.of, own.classes, own.support, own.query)
    learner, shared = LinearHead(F), torch.zeros(1)
    fitted, one = (kind(learner, shared).calibrated(val) for kind in (AdaptiveRidge, Ridge))
    assert fitted.log_penalty[1] > 0.3 and fitted.temperature != 1.0

    def score(of, spread):
        task = families("test", (spread,)).batch(torch.arange(40))
        return learner.score(of.centre(task.context), task.query).mean().item()

    both = {kind: (score(fitted, kind), score(one, kind)) for kind in ("even", "narrow")}
    assert sum(ours for ours, _ in both.values()) > sum(theirs for _, theirs in both.values()) + 0.02, both


def test_every_part_and_size_that_has_images_is_fitted_on():
    sizes = [tuple(task.context.rows.shape[1:3]) for task in _tasks(families("val", ("even",), n_images=6))]
    assert sizes == [(n_way, n_shot) for n_shot in (1, 2, 5) for n_way in (5, 20)]


def test_a_fitted_start_is_read_back_as_it_was(support):
    fitted = replace(
        initialization(LinearHead(F), 0.1, 0.2, 0.3, 0.4, temperature=3.0),
        shared=torch.zeros(LinearHead(F).space.dim(N)),
    )
    again = initialization_of(fitted.learner, *fitted.state())
    assert type(again) is INITIALIZATIONS["adaptive_ridge"]
    assert torch.equal(again.centre(support), fitted.centre(support))
