"""Methods that see what is to be classified, unlabelled: closed forms, plain loops, and what must not matter."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from worlds import N_WAY, World, draw, stirred

from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.closed_form import prototype_weights
from ltdi.learners import LinearHead
from ltdi.methods.transductive.base import rectified_prototypes, soft_class_means
from ltdi.methods.transductive.laplacian_shot import assignments, min_norm_weights, neighbour_graph
from ltdi.methods.transductive.registry import TRANSDUCTIVE
from ltdi.methods.transductive.self_training import SelfTraining
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import context_of
from ltdi.tasks.transductive_tasks import Transductive, knowing
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

WIDTH, U = 8, 15
SHOTS = torch.tensor([[4, 1, 2], [1, 4, 3]])
HEAD = LinearHead(WIDTH)
INITIALIZATION = INITIALIZATIONS["prototype"](HEAD, torch.zeros(HEAD.space.dim(N_WAY)))


@pytest.fixture(scope="module")
def world() -> World:
    return World("prototype")


def blobs(shots: torch.Tensor | None = None) -> Context:
    """Two tasks of overlapping classes with unlabelled rows (2, U, WIDTH)."""
    stream = generator(0, "blobs")
    centres = torch.randn(2, N_WAY, 1, WIDTH, generator=stream)
    rows = centres + torch.randn(2, N_WAY, 4, WIDTH, generator=stream)
    asked = (centres + torch.randn(2, N_WAY, U // N_WAY, WIDTH, generator=stream)).flatten(1, 2)
    mask = None if shots is None else torch.arange(4) < shots[..., None]
    return knowing(context_of(rows, mask), asked)


def methods() -> list:
    return [pytest.param(baseline, id=name) for name, baseline in TRANSDUCTIVE.items()]


every_baseline = pytest.mark.parametrize("baseline", methods())


def made(baseline, context: Context, **hparams) -> torch.Tensor:
    method = baseline(INITIALIZATION)
    method.hparams = method.hparams | hparams
    return draw(method, context)


# --- soft k-means


def test_soft_k_means_without_a_round_is_the_prototype():
    context = blobs(SHOTS)
    w = made(TRANSDUCTIVE["soft_k_means"], context, temperature=0.5, rounds=0)
    assert_close(w, prototype_weights(HEAD, context.means, 0.5))


@pytest.mark.parametrize("shots", [None, SHOTS])
def test_a_round_of_soft_k_means_is_a_plain_loop(shots):
    context = blobs(shots)
    w = made(TRANSDUCTIVE["soft_k_means"], context, temperature=0.3, rounds=1)
    for task in range(2):
        known = [rows[there > 0] for rows, there in zip(context.rows[task], context.present[task])]
        sums, sizes = torch.stack([rows.sum(0) for rows in known]), torch.tensor([float(len(rows)) for rows in known])
        for f in context.unlabelled[task]:
            p = torch.stack([-0.3 * (f - rows.mean(0)).square().sum() for rows in known]).softmax(0)
            sums, sizes = sums + p[:, None] * f, sizes + p
        assert_close(w[task], prototype_weights(HEAD, (sums / sizes[:, None])[None], 0.3)[0])


def test_of_one_class_everything_is_its_own():
    context = blobs()
    alone = knowing(context_of(context.rows[:, :1]), context.unlabelled)
    means = soft_class_means(alone, alone.unlabelled, torch.ones(2, U, 1))
    assert_close(means[:, 0], torch.cat([alone.rows[:, 0], alone.unlabelled], 1).mean(1))


def test_self_training_round_the_prototype_is_soft_k_means(world):
    asked = world.val.batch(torch.arange(5)).query["inputs"]
    context = knowing(world.context, asked)
    prototype = world.build("prototype")
    prototype.temperature.fill_(2.0)
    again, baseline = SelfTraining(prototype), TRANSDUCTIVE["soft_k_means"](world.initialization)
    again.hparams, baseline.hparams = (
        {"sharpness": 1.0, "rounds": 3, "update_scale": 1.0},
        {"temperature": 2.0, "rounds": 3},
    )
    assert_close(draw(again, context), draw(baseline, context), rtol=1e-4, atol=1e-5)


def test_self_training_without_a_round_is_the_method(world):
    context = knowing(world.context, world.val.batch(torch.arange(5)).query["inputs"])
    method = stirred(world.prepared("ltdi"))
    again = SelfTraining(method)
    again.hparams = {"sharpness": 1.0, "rounds": 0, "update_scale": 1.0}
    assert_close(draw(again, context), draw(method, world.context), rtol=0, atol=0)
    again.hparams = {"sharpness": 1.0, "rounds": 1, "update_scale": 1.0}
    assert not torch.allclose(draw(again, context), draw(method, world.context))


def test_a_generator_goes_a_part_of_its_way_in_every_round(world):
    """Of no part it is its start, trained by itself."""
    asked = world.val.batch(torch.arange(5)).query["inputs"]
    context, method = knowing(world.context, asked), stirred(world.prepared("ltdi"))
    again = SelfTraining(method)
    w = {}
    for part in (0.0, 0.5, 1.0):
        again.hparams = {"sharpness": 2.0, "rounds": 1, "update_scale": part}
        w[part] = draw(again, context)
    prototype = world.build("prototype")
    prototype.temperature.fill_(world.initialization.temperature)
    of_start = SelfTraining(prototype)
    of_start.hparams = {"sharpness": 2.0, "rounds": 1, "update_scale": 1.0}
    assert_close(w[0.0], draw(of_start, context), rtol=1e-4, atol=1e-5)
    half = torch.lerp(world.initialization.centre(world.context), draw(method, world.context), 0.5)
    shares = (2 * world.head.logits(half, asked)).softmax(-1)
    joined_rows = soft_class_means(context, asked, shares)[:, :, None].expand_as(context.rows)
    seen = context_of(joined_rows)
    assert_close(w[0.5], torch.lerp(world.initialization.centre(seen), draw(method, seen), 0.5), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(w[0.5], w[1.0])


# --- BD-CSPN


def test_rectified_prototypes_are_a_plain_loop():
    context = blobs(SHOTS)
    prototypes, shift = rectified_prototypes(context, context.unlabelled, 10.0, max_rows=2)
    for task in range(2):
        known = [F.normalize(rows[there > 0], dim=-1) for rows, there in zip(context.rows[task], context.present[task])]
        raw = torch.cat([rows[there > 0] for rows, there in zip(context.rows[task], context.present[task])])
        assert_close(shift[task], raw.mean(0) - context.unlabelled[task].mean(0))
        moved = F.normalize(context.unlabelled[task] + shift[task], dim=-1)
        means = torch.stack([F.normalize(rows.mean(0), dim=0) for rows in known])
        cosines = moved @ means.T
        for n, rows in enumerate(known):
            own = moved[cosines.argmax(1) == n]
            own = own[(own @ means[n]).argsort(descending=True)[:2]]
            members = torch.cat([rows, own])
            weights = (10 * members @ means[n]).exp()
            assert_close(prototypes[task, n], F.normalize(weights @ members, dim=0), rtol=1e-4, atol=1e-5)


def test_bd_cspn_answers_by_the_cosine_of_the_moved_row():
    context = blobs()
    labels = HEAD.logits(made(TRANSDUCTIVE["bd_cspn"], context), context.unlabelled).argmax(-1)
    prototypes, shift = rectified_prototypes(context, context.unlabelled, 10.0)
    moved = context.unlabelled + shift[:, None]
    assert labels.equal(F.cosine_similarity(moved[:, :, None], prototypes[:, None], dim=-1).argmax(-1))


# --- LaplacianShot


def test_without_neighbours_say_the_nearest_prototype_is_taken():
    context = blobs()
    prototypes, shift = rectified_prototypes(context, context.unlabelled, 10.0)
    moved = F.normalize(context.unlabelled + shift[:, None], dim=-1)
    y = assignments(context, context.unlabelled, neighbours=3, regularization=0.0)
    assert_close(y, (-torch.cdist(moved, prototypes).square()).softmax(-1), rtol=1e-4, atol=1e-5)


def test_neighbours_are_the_nearest_others():
    rows = blobs().unlabelled
    W = neighbour_graph(rows, 3)
    for task in range(2):
        for i in range(U):
            others = [j for j in range(U) if j != i]
            nearest = sorted(others, key=lambda j: (rows[task, i] - rows[task, j]).norm().item())[:3]
            assert W[task, i].nonzero().flatten().tolist() == sorted(nearest)


def test_neighbours_that_agree_overrule_the_prototype():
    """A row between two classes goes with its two neighbours, which stand for one of them."""
    rows = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    asked = F.normalize(torch.tensor([[[1.0, 0.35], [1.0, 0.45], [0.7, 0.72], [0.0, 1.0], [0.01, 1.0]]]), dim=-1)
    context = knowing(context_of(rows), asked)
    alone, together = (assignments(context, asked, neighbours=2, regularization=s).argmax(-1)[0] for s in (0.0, 5.0))
    assert alone[:2].unique().tolist() == [0] and alone[3:].unique().tolist() == [1]
    assert together[2] == together[1] == 0


@pytest.mark.parametrize("width", [WIDTH, 40])
def test_the_head_gives_its_rows_their_assignments(width):
    """Where there are as many features as rows or more; else as nearly as any head does."""
    rows, logits = torch.randn(2, U, width, generator=generator(0, width)), torch.randn(2, U, 3)
    weight = min_norm_weights(rows, logits)
    best = torch.linalg.lstsq(rows.double(), logits.double(), driver="gelsd").solution.mT.float()
    assert_close(weight, best, rtol=1e-3, atol=1e-3)
    if width > U:
        assert_close(rows @ weight.mT, logits, rtol=1e-3, atol=1e-3)


# --- all


@every_baseline
def test_the_order_of_images_and_of_classes_does_not_matter(baseline):
    context = blobs()
    w, order = made(baseline, context), torch.randperm(U, generator=generator(0, "order"))
    mixed = knowing(context_of(context.rows[:, :, [2, 0, 3, 1]]), context.unlabelled[:, order])
    assert_close(made(baseline, mixed), w, rtol=1e-3, atol=1e-4)
    slots = [2, 0, 1]
    turned = HEAD.logits(
        made(baseline, knowing(context_of(context.rows[:, slots]), context.unlabelled)), context.rows[:, 0]
    )
    assert_close(turned, HEAD.logits(w, context.rows[:, 0])[..., slots], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["soft_k_means", "bd_cspn"])
def test_everything_twice_is_the_same(name):
    context, baseline = blobs(), TRANSDUCTIVE[name]
    twice = knowing(context_of(context.rows.repeat(1, 1, 2, 1)), context.unlabelled.repeat(1, 2, 1))
    assert_close(made(baseline, twice), made(baseline, context), rtol=1e-4, atol=1e-5)


@every_baseline
def test_neither_neighbours_nor_what_is_masked_matter(baseline):
    context = blobs(SHOTS)
    w = made(baseline, context)
    assert_close(made(baseline, context[torch.tensor([1])]), w[1:], rtol=1e-4, atol=1e-5)
    spoilt = replace(context, rows=context.rows.where(context.mask[..., None], torch.tensor(1e3)))
    assert_close(made(baseline, spoilt), w, rtol=1e-4, atol=1e-5)


@every_baseline
def test_the_best_candidate_on_meta_val_is_taken(baseline, world):
    source, sizes = Transductive(world.val, 5), {"n_tasks": 20, "n_way": N_WAY, "n_shot": 2}
    method = baseline(world.initialization).choose(source, **sizes, seed=3)
    stream = generator(3, "transductive", 2)
    task = source.new(source.draw(20, stream, n_way=N_WAY), stream, n_shot=2)
    means = []
    for hparams in method.candidates:
        other = baseline(world.initialization)
        other.hparams = hparams
        means.append(world.head.score(draw(other, task.context), task.query).double().mean().item())
    assert max(means) > min(means), "hyperparameters that change nothing choose nothing"
    assert method.hparams == method.candidates[means.index(max(means))]


@pytest.mark.parametrize(("present", "labels"), [(None, {0, 1, 2}), (2, {0, 1})])
def test_what_is_asked_is_known_without_labels(present, labels, world):
    source, stream = Transductive(world.val, 6, present), generator(0, "tasks")
    task = source.new(source.draw(4, stream), stream, n_shot=2)
    asked, known = task.query["inputs"], task.context.unlabelled
    assert set(task.query["labels"].unique().tolist()) == labels and asked.shape[1] == 6 * len(labels)
    for mine, theirs in zip(known, asked):
        place = torch.cdist(mine, theirs).argmin(1)
        assert place.sort().values.equal(torch.arange(len(place))) and not place.equal(torch.arange(len(place)))


def test_without_such_images_it_says_so(world):
    with pytest.raises(InputError, match="needs the images to be classified"):
        made(TRANSDUCTIVE["bd_cspn"], context_of(blobs().rows))
    with pytest.raises(InputError, match="more than a linear classifier"):
        SelfTraining(World("prototype", with_images=True).build("reptile"))
