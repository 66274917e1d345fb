"""What the baselines for features of pre-trained bodies compute: against plain loops, and what leaves them alone."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from worlds import N_WAY, World, draw

from ltdi.learners import LinearHead
from ltdi.methods.baselines.lda import SHRINKAGES, shrunk_inverse, within_class_covariance
from ltdi.methods.baselines.logistic import C_VALUES, logistic_weights
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import Classes, ClassTasks, context_of
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.utils.metrics import accuracy
from ltdi.utils.seeding import generator

WIDTH = 8
SHOTS = torch.tensor([[4, 1, 2], [1, 4, 3]])


@pytest.fixture(scope="module")
def world() -> World:
    return World("prototype")


@pytest.fixture(scope="module")
def everything(world):
    return world.val.batch(torch.arange(len(world.val)))


def signed(n_tasks: int = 2, n_shot: int = 4, shots: torch.Tensor | None = None) -> Context:
    """Rows that may be negative, of classes that overlap."""
    stream = generator(0, "signed")
    centres = torch.randn(n_tasks, N_WAY, 1, WIDTH, generator=stream)
    rows = centres + torch.randn(n_tasks, N_WAY, n_shot, WIDTH, generator=stream)
    return context_of(rows, None if shots is None else torch.arange(n_shot) < shots[..., None])


def of_each_class(context: Context, task: int) -> list[torch.Tensor]:
    """(K_n, F) of each class."""
    return [rows[there > 0] for rows, there in zip(context.rows[task], context.present[task])]


# --- cosines


@pytest.mark.parametrize("name", ["nearest_unit", "simpleshot"])
@pytest.mark.parametrize("shots", [None, SHOTS])
def test_a_class_is_the_direction_of_its_mean(name, shots, world):
    """A row goes to the class of the largest cosine, whatever the row's own length."""
    method, context = world.prepared(name), signed(shots=shots)
    inputs = 3 * torch.randn(2, 30, WIDTH, generator=generator(0, "inputs"))
    centre = method.mean if name == "simpleshot" else torch.zeros(WIDTH)
    labels = LinearHead(WIDTH).logits(with_linear_head(method, context), inputs).argmax(-1)
    for task in range(2):
        directions = torch.stack([F.normalize(rows - centre, dim=-1).mean(0) for rows in of_each_class(context, task)])
        cosines = F.cosine_similarity((inputs[task] - centre)[:, None], directions, dim=-1)
        assert labels[task].equal(cosines.argmax(-1))


def with_linear_head(method, context: Context) -> torch.Tensor:
    """Its weights as a linear head's (B, D), which takes rows of any sign."""
    method.head = LinearHead(WIDTH)
    return draw(method, context)


def test_the_length_of_rows_does_not_matter_to_nearest_unit(world):
    method, context = world.prepared("nearest_unit"), signed()
    lengths = 0.1 + torch.rand(2, N_WAY, 4, 1, generator=generator(0, "lengths"))
    assert_close(draw(method, Context(lengths * context.rows)), draw(method, context), rtol=1e-4, atol=1e-5)


def test_of_one_row_of_unit_length_nearest_unit_is_prototype(world, everything):
    rows, queries = (
        F.normalize(everything.context.rows[:, :, :1], dim=-1),
        F.normalize(everything.query["inputs"], dim=-1),
    )
    labels = [
        world.head.logits(draw(world.build(name), Context(rows)), queries).argmax(-1)
        for name in ("nearest_unit", "prototype")
    ]
    assert labels[0].equal(labels[1])


def test_simpleshot_centres_on_all_rows_of_meta_training(world):
    assert_close(world.prepared("simpleshot").mean, world.train.of.features.mean(0))


def test_simpleshot_is_left_alone_by_what_moves_all_features(world):
    shift = torch.randn(WIDTH, generator=generator(0, "shift"))
    classes = Classes(world.train.of.features + shift, world.train.of.counts)
    moved = ClassTasks(classes, world.train.classes, world.train.support, world.train.query)
    method, other = world.prepared("simpleshot"), world.build("simpleshot")
    other.prepare(moved, world.trajectories, world.val)
    other.temperature.copy_(method.temperature)
    context, head = signed(), LinearHead(WIDTH)
    inputs = torch.randn(2, 30, WIDTH, generator=generator(0, "inputs"))
    logits = head.logits(with_linear_head(method, context), inputs)
    of_moved = head.logits(with_linear_head(other, Context(context.rows + shift)), inputs + shift)
    assert_close(of_moved, logits, rtol=1e-3, atol=1e-3)


def test_on_centred_features_simpleshot_is_nearly_nearest_unit(world, everything):
    rows = world.train.of.features
    seen = FeatureMap.fit(rows, normalise="centred", projection=None)
    train, val = world.train.through(seen), world.val.through(seen)
    task, found = val.batch(torch.arange(len(val))), []
    for name in ("simpleshot", "nearest_unit"):
        method = world.build(name)
        method.prepare(train, world.trajectories, val)
        labels = LinearHead(WIDTH).logits(with_linear_head(method, task.context), task.query["inputs"]).argmax(-1)
        found.append(labels)
    assert (found[0] == found[1]).float().mean() > 0.9


# --- the training classes' covariance


def test_the_covariance_is_that_of_rows_around_their_class(world):
    covariance = within_class_covariance(world.train)
    away = world.train.of.features.unflatten(0, (12, 10)) - world.train.of.means()[:, None]
    expected = torch.einsum("cif,cig->fg", away.double(), away.double())
    assert_close(covariance, expected / expected.diagonal().mean(), rtol=1e-5, atol=1e-6)
    assert covariance.diagonal().mean() == pytest.approx(1)


def test_classes_of_unequal_numbers_and_what_they_are_seen_through_count_too():
    features = torch.randn(9, WIDTH, generator=generator(0, "few"))
    seen = FeatureMap.fit(features, normalise="unit", projection=None)
    classes = Classes(features, torch.tensor([2, 4, 3]), seen=seen)
    index = torch.zeros(1, 3, 1, dtype=torch.long)
    source = ClassTasks(classes, torch.arange(3)[None], index, index)
    parts = [part - part.mean(0) for part in seen(features).split([2, 4, 3])]
    expected = sum(part.mT @ part for part in parts).double()
    assert_close(within_class_covariance(source), expected / expected.diagonal().mean(), rtol=1e-5, atol=1e-6)
    assert sum(len(rows) for rows in source.by_class()) == 9


def test_one_row_a_class_says_nothing_of_the_covariance():
    classes = Classes(torch.randn(3, WIDTH), torch.ones(3, dtype=torch.long))
    index = torch.zeros(1, 3, 1, dtype=torch.long)
    assert within_class_covariance(ClassTasks(classes, torch.arange(3)[None], index, index)).equal(
        torch.eye(WIDTH).double()
    )


def test_lda_of_the_identity_is_prototype(world, everything):
    lda, prototype = world.build("lda"), world.prepared("prototype")
    lda.temperature.copy_(prototype.temperature)
    assert_close(draw(lda, everything.context), draw(prototype, everything.context))
    assert shrunk_inverse(within_class_covariance(world.train), 1.0).equal(torch.eye(WIDTH).double())


def test_lda_is_the_nearest_mean_in_its_metric(world, everything):
    method = world.build("lda")
    method.precision.copy_(shrunk_inverse(within_class_covariance(world.train), 0.1))
    away = everything.query["inputs"][:, :, None] - everything.context.means[:, None]
    distances = torch.einsum("bmnf,fg,bmng->bmn", away, method.precision, away)
    scores = world.head.score(draw(method, everything.context), everything.query)
    assert_close(scores, accuracy(-distances, everything.query["labels"]))


def test_without_shrinkage_lda_does_not_depend_on_the_features_axes(world):
    """Any invertible map of rows leaves its distances alone."""
    mixing = torch.eye(WIDTH).double() + 0.3 * torch.randn(WIDTH, WIDTH, generator=generator(0, "mix")).double()
    covariance = within_class_covariance(world.train)
    inverse, mixed = shrunk_inverse(covariance, 0.0), shrunk_inverse(mixing.mT @ covariance @ mixing, 0.0)
    assert_close(mixing @ mixed @ mixing.mT, inverse)


def test_lda_takes_the_shrinkage_that_meta_val_shows_best(world, everything):
    method = world.prepared("lda")
    chosen, covariance = method.precision.clone(), within_class_covariance(world.train)
    found = []
    for shrinkage in SHRINKAGES:
        method.precision.copy_(shrunk_inverse(covariance, shrinkage))
        found.append(world.head.score(draw(method, everything.context), everything.query).mean().item())
    best = SHRINKAGES[found.index(max(found))]
    assert_close(chosen, shrunk_inverse(covariance, best).float())


def test_where_features_vary_in_what_tells_nothing_lda_is_ahead_of_prototype():
    """The first numbers of a row are noise, in all classes alike."""
    stream = generator(0, "noisy")
    size = torch.tensor([6.0, 6.0, 6.0, 6.0, 0.3, 0.3, 0.3, 0.3])
    rows = torch.randn(24, 1, WIDTH, generator=stream) + size * torch.randn(24, 10, WIDTH, generator=stream)
    world = World("prototype")
    world.head = LinearHead(WIDTH)
    sources = []
    for part in (rows[:12], rows[12:]):
        classes = Classes(part.flatten(0, 1), torch.full((12,), 10))
        sources.append(ClassTasks.sample(classes, n_tasks=50, n_way=N_WAY, n_shot=1, n_query=5, seed=0, split="noisy"))
    task = sources[1].batch(torch.arange(50))
    scores = {}
    for name in ("lda", "prototype"):
        method = world.build(name)
        method.head = LinearHead(WIDTH)
        method.prepare(sources[0], world.trajectories, sources[1])
        scores[name] = method.head.score(draw(method, task.context), task.query).mean()
    assert scores["lda"] > scores["prototype"] + 0.2


# --- logistic regression


def objective(w: torch.Tensor, context: Context, task: int, c: float) -> torch.Tensor:
    """C Σ CE + ½ s² ‖W‖², by loops."""
    t = LinearHead(WIDTH).space.unflatten(w)
    rows = torch.cat(of_each_class(context, task)).double()
    labels = torch.tensor([n for n, part in enumerate(of_each_class(context, task)) for _ in part])
    size = (rows - rows.mean(0)).square().sum(-1).mean()
    logits = rows @ t["output.weight"].mT + t["output.bias"]
    return c * F.cross_entropy(logits, labels, reduction="sum") + size * t["output.weight"].square().sum() / 2


@pytest.mark.parametrize("shots", [None, SHOTS])
@pytest.mark.parametrize("c", C_VALUES)
def test_the_gradient_is_zero_at_the_solution(c, shots):
    context = signed(shots=shots)
    w = logistic_weights(LinearHead(WIDTH), Context(context.rows.double(), context.mask), c)
    for task in range(2):
        own = w[task].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(own, context, task, c), own)
        nothing = torch.zeros_like(own).requires_grad_()
        (at_zero,) = torch.autograd.grad(objective(nothing, context, task, c), nothing)
        assert gradient.norm() < 1e-4 * at_zero.norm()


def test_it_is_what_a_plain_optimiser_finds():
    context, c = signed(), 1.0
    w = logistic_weights(LinearHead(WIDTH), context, c)
    for task in range(2):
        found = torch.zeros(w.shape[1], dtype=torch.float64).requires_grad_()
        optimizer = torch.optim.LBFGS([found], max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def closure(task=task, found=found, optimizer=optimizer):
            optimizer.zero_grad()
            loss = objective(found, context, task, c)
            loss.backward()
            return loss

        optimizer.step(closure)
        ours, theirs = (LinearHead(WIDTH).space.unflatten(each) for each in (w[task].double(), found.detach()))
        assert_close(ours["output.weight"], theirs["output.weight"], rtol=1e-3, atol=1e-4)
        bias = theirs["output.bias"] - theirs["output.bias"].mean()  # one added to all changes nothing
        assert_close(ours["output.bias"] - ours["output.bias"].mean(), bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", [lambda x: 7 * x, lambda x: x + 3, lambda x: x.roll(2, -1)], ids=["×", "+", "roll"])
def test_size_place_and_axes_of_features_do_not_matter_to_logistic_regression(change):
    context, head = signed(), LinearHead(WIDTH)
    inputs = torch.randn(2, 30, WIDTH, generator=generator(0, "inputs"))
    logits = head.logits(logistic_weights(head, context, 10.0), inputs)
    of_changed = head.logits(logistic_weights(head, Context(change(context.rows)), 10.0), change(inputs))
    assert_close(of_changed, logits, rtol=1e-3, atol=1e-3)


def test_more_features_than_rows_and_rows_that_are_there_twice():
    """The weights lie in the span of the rows; a row twice is a row that counts twice."""
    rows = torch.randn(1, N_WAY, 1, 40, generator=generator(0, "wide"))
    head = LinearHead(40)
    once, twice = (logistic_weights(head, Context(rows.expand(1, N_WAY, k, 40)), c) for k, c in ((1, 2.0), (2, 1.0)))
    assert_close(once, twice, rtol=1e-4, atol=1e-5)
    weight = head.space.unflatten(once)["output.weight"][0].double()
    span = (rows[0, :, 0] - rows[0, :, 0].mean(0)).double()
    assert_close(weight @ torch.linalg.pinv(span) @ span, weight, rtol=1e-4, atol=1e-5)


def test_equal_rows_tell_nothing():
    w = logistic_weights(LinearHead(WIDTH), Context(torch.ones(1, N_WAY, 2, WIDTH)), 1.0)
    assert_close(w, torch.zeros_like(w))


def test_logistic_takes_the_c_that_meta_val_shows_best(world, everything):
    method = world.prepared("logistic")
    scores = [
        world.head.score(logistic_weights(world.head, everything.context, c), everything.query).mean().item()
        for c in C_VALUES
    ]
    assert method.c.item() == C_VALUES[scores.index(max(scores))]
