"""Heads from names: closed forms against plain solutions, and what every method owes to the names."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from described_worlds import N_WAY, NamedWorld, named_tasks
from torch.testing import assert_close
from worlds import draw

from ltdi.initialization import INITIALIZATIONS, initialization_of
from ltdi.initialization.from_names import (
    NOISE,
    SHARPNESSES,
    kernel_directions,
    ridge_directions,
    similarities,
    softmax_directions,
)
from ltdi.learners import LinearHead
from ltdi.methods.common.base import scores
from ltdi.methods.registry import build
from ltdi.methods.storage import read_method, write_method
from ltdi.store import read_table, write_table
from ltdi.tasks.base import Context
from ltdi.tasks.named_class_tasks import NamedClassTasks, left_out, rows_as_features
from ltdi.trajectories.collection import collect
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

FROM_ROWS = ("nearest_name", "softmax_rows", "text_ridge", "kernel_ridge", "eszsl", "conse")
TRAINED = (
    *("ltdi", "lvdi", "mcdi", "weight_flow", "meta_hypernetwork", "icis"),
    *("ghn3", "reptile_names", "meta_baseline_names"),
)
OWN = {"meta_hypernetwork": {"adapt_steps": 0}, "weight_flow": {"noise": 0.0}}
LEARNING = {"new_tasks": 8, "recorded_tasks": 8, "query_loss": 1.0, "weight_loss": 0.1}


@pytest.fixture(scope="module")
def world():
    return NamedWorld()


@pytest.fixture(scope="module")
def table(world):
    return world.initialization.table


@pytest.fixture(scope="module")
def learned(world):
    """Every method and baseline as it is after its training."""
    found = {}
    for name in (*FROM_ROWS, *TRAINED):
        method = world.prepared(name, own=OWN.get(name, {}), meta=LEARNING)
        if name in TRAINED:
            world.rows(method, Training(method, lr=5e-3, steps=150, ema=0.9))
            method.eval().finish(world.val, seed=0)
        found[name] = method
    return found


def accuracy(method, source) -> float:
    return scores(method.learner, source, lambda context: draw(method, context)).mean().item()


# --- the tasks


def test_nothing_but_a_row_of_text_is_known(world):
    task = world.val.batch(torch.arange(3))
    assert task.context.rows.shape == (3, N_WAY, 1, 12) and task.context.examples is None
    assert task.context.known is None
    assert world.train.context(torch.arange(3)).known.equal(world.train.classes[:3])
    assert task.query["inputs"].shape == (3, N_WAY * 5, 8)
    assert world.val.n_shot == world.val.most_shots == 1


def test_new_tasks_have_queries_of_their_own(world):
    names = world.val.draw(4, generator(0, "new"), n_way=7)
    task = world.val.new(names, generator(0, "new"), n_shot=3, n_query=2)
    assert task.context.rows.shape == (4, 7, 1, 12) and task.query["labels"].shape == (4, 14)


def test_tasks_come_back_from_their_table(world, tmp_path):
    write_table(tmp_path / "tasks.parquet", world.val.to_table())
    again = NamedClassTasks.from_table(world.val.of, read_table(tmp_path / "tasks.parquet"))
    tasks = torch.tensor([3, 1])
    assert_close(again.batch(tasks).query, world.val.batch(tasks).query, rtol=0, atol=0)
    assert again.take(tasks).description(torch.arange(2)) == again.take(tasks).to("cpu").description(torch.arange(2))


def test_classes_of_one_row_are_asked_about_it():
    rows = torch.randn(6, 8, generator=generator(0, "rows"))
    features = 3 + 2 * torch.randn(50, 8, generator=generator(0, "features"))
    made = rows_as_features(rows, features)
    assert_close(made.mean(0), features.mean(0))
    away, expected = made - made.mean(0), rows - rows.mean(0)
    assert_close(F.normalize(away, dim=-1), F.normalize(expected, dim=-1))
    assert_close(away.square().mean(), (features - features.mean(0)).square().mean())


def test_classes_that_are_asked_are_left_out_by_key_or_name():
    names = {"n01": "zebra", "n02": "okapi", "n03": "tapir", "n04": "dog"}
    assert left_out(names, {"n01": "Zebra", "okapi_": "Okapi"}) == ["n03", "n04"]


# --- closed forms


def context_of(texts) -> Context:
    return Context(texts[None, :, None])


def test_ridge_is_the_plain_solution(table):
    asked = torch.randn(4, 12, generator=generator(0, "asked"))
    x = F.normalize(table.texts, dim=-1).double()
    mean, y = x.mean(0), (table.rows - table.rows.mean(0)).double()
    x = x - mean
    weights = torch.linalg.solve(x.mT @ x + 0.3 * torch.eye(12, dtype=torch.double), x.mT @ y)
    expected = (F.normalize(asked, dim=-1).double() - mean) @ weights
    assert_close(ridge_directions(table, context_of(asked), 0.3)[0], expected.float(), rtol=1e-4, atol=1e-4)


def test_ridge_of_known_classes_is_that_on_the_others(table):
    """With both sides centred once, on all."""
    own = torch.tensor([[3, 17, 40], [1, 0, 59]])
    x = F.normalize(table.texts, dim=-1).double()
    x, y = x - x.mean(0), (table.rows - table.rows.mean(0)).double()
    found = ridge_directions(table, Context(table.texts[own][:, :, None], known=own), 0.1)
    for task, classes in enumerate(own):
        kept = torch.ones(len(x), dtype=torch.bool).index_fill(0, classes, False)
        gram = x[kept].mT @ x[kept] + 0.1 * torch.eye(12, dtype=torch.double)
        expected = x[classes] @ torch.linalg.solve(gram, x[kept].mT @ y[kept])
        assert_close(found[task], expected.float(), rtol=1e-3, atol=1e-4)


def test_kernel_ridge_is_the_plain_solution_and_of_known_classes_that_on_the_others(table):
    def plain(kept, asked):
        x = F.normalize(table.texts, dim=-1).double()
        centre, y = x.mean(0), (table.rows - table.rows.mean(0)).double()[kept]
        x, asked = F.normalize(x - centre, dim=-1)[kept], F.normalize(asked, dim=-1).double() - centre
        gram = torch.exp((x @ x.mT - 1) / 0.3) + NOISE * torch.eye(len(x))
        return (torch.exp((F.normalize(asked, dim=-1) @ x.mT - 1) / 0.3) @ torch.linalg.solve(gram, y)).float()

    asked = torch.randn(4, 12, generator=generator(0, "asked"))
    everything = torch.ones(60, dtype=torch.bool)
    assert_close(kernel_directions(table, context_of(asked), 0.3)[0], plain(everything, asked), rtol=1e-4, atol=1e-4)
    own = torch.tensor([[3, 17, 40], [1, 0, 59]])
    found = kernel_directions(table, Context(table.texts[own][:, :, None], known=own), 0.3)
    for task, classes in enumerate(own):
        kept = everything.index_fill(0, classes, False)
        assert_close(found[task], plain(kept, table.texts[classes]), rtol=1e-3, atol=1e-4)


def test_eszsl_solves_its_equation(world):
    """(XᵀX + γI) V (SᵀS + λI) = XᵀYS, as one linear system in vec(V)."""
    method = world.prepared("eszsl")
    of, texts = world.train.of, F.normalize(world.train.of.texts, dim=-1).double()
    x = (of.features - of.means().mean(0)).double()
    y = 2 * F.one_hot(torch.arange(60).repeat_interleave(10)).double() - 1
    gram, right = x.mT @ x, texts.mT @ texts
    gamma, lam = (hparam * matrix.trace() / len(matrix) for hparam, matrix in zip(method.hparams, (gram, right)))
    left, right = gram + gamma * torch.eye(len(gram)), right + lam * torch.eye(len(right))
    vec = torch.linalg.solve(torch.kron(left, right), (x.mT @ y @ texts).flatten())
    expected = vec.unflatten(0, method.bilinear.shape).float()
    assert_close(method.bilinear, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_names_of_known_classes_give_their_rows_back(table, world):
    asked = context_of(table.texts[[4, 9, 30]])
    rows = table.centred[[4, 9, 30]]
    assert_close(softmax_directions(table, asked, 1e-5)[0], rows)
    assert similarities(table, asked).argmax(-1).tolist() == [[4, 9, 30]]
    expected = table.classifier(world.initialization.learner, rows[None], 1.0)
    w = draw(world.prepared("nearest_name"), asked)
    cosine = F.cosine_similarity(w, expected)
    assert cosine.item() == pytest.approx(1, abs=1e-5)


def test_known_classes_are_not_asked_of_themselves(table):
    own = torch.tensor([[4, 9, 30]])
    found = similarities(table, Context(table.texts[own][:, :, None], known=own))
    assert bool((found[0][:, own[0]] == -torch.inf).all()) and found.isfinite().sum() == 3 * 57


def test_the_classifier_scores_by_cosine_from_the_mean(table):
    learner, u, f = LinearHead(8, 12), torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    logits = learner.logits(table.classifier(learner, u, 3.0), f)
    assert_close(logits, 3 * (f - table.mean) @ F.normalize(u, dim=-1).mT, rtol=1e-4, atol=1e-4)


# --- starts


@pytest.mark.parametrize("kind", ["softmax_rows", "text_ridge", "kernel_ridge"])
def test_a_start_is_made_again_from_its_state(kind, world):
    own = {"texts": world.train.of.texts, "rows": world.train.of.means()}
    initialization = INITIALIZATIONS[kind](
        world.initialization.learner, world.initialization.shared, **own, temperature=2.0, hparam=0.25
    )
    again, context = (
        initialization_of(initialization.learner, *initialization.state()).to("cpu"),
        world.val.context(torch.arange(3)),
    )
    assert_close(again.centre(context), initialization.centre(context), rtol=0, atol=0)


def test_calibration_takes_the_knob_with_the_lowest_loss(world):
    task = world.val.batch(torch.arange(len(world.val)))

    def loss(initialization) -> float:
        return initialization.learner.loss(initialization.centre(task.context), task.query).mean().item()

    others = [
        replace(world.initialization, hparam=hparam) for hparam in SHARPNESSES if hparam != world.initialization.hparam
    ]
    assert loss(world.initialization) < min(map(loss, others))


def test_rows_are_the_end_of_a_straight_trajectory(world):
    hparams = {"augment": False, "optimizer": "adam", "lr": 0.1, "steps": 3, "length": 4, "sam": 0.0, "seed": 0}
    recorded = collect(world.initialization, world.train, torch.arange(6), fit_on="rows", **hparams)
    context = world.train.context(torch.arange(6))
    expected = world.initialization.table.classifier(
        world.initialization.learner,
        world.initialization.table.centred[context.known],
        world.initialization.temperature,
    )
    assert_close(recorded.points[:, 0], expected)
    assert_close(recorded.points[:, 3], world.initialization.centre(context))
    assert_close(recorded.points[:, 1], torch.lerp(recorded.points[:, 0], recorded.points[:, 3], 1 / 3))
    asked, trained = (
        collect(world.initialization, world.val, torch.arange(6), fit_on=each, **hparams) for each in ("rows", "class")
    )
    assert_close(asked.points, trained.points, rtol=0, atol=0)
    shared = INITIALIZATIONS["shared"](world.initialization.learner, world.initialization.shared)
    with pytest.raises(
        InputError, match="^trajectories.fit_on = rows needs weights .* trajectories.initialization = from_names$"
    ):
        collect(shared, world.train, torch.arange(6), fit_on="rows", **hparams)


# --- every method


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FROM_ROWS, *TRAINED])
def test_right_names_work_and_shuffled_ones_fall_to_chance(name, learned, world):
    method = learned[name]
    assert accuracy(method, world.test) > 0.6
    chance = accuracy(method, named_tasks("test", 200, shuffled=True))
    assert chance == pytest.approx(1 / N_WAY, abs=0.06)


@pytest.mark.parametrize("name", [*FROM_ROWS, *TRAINED])
def test_permuted_names_permute_the_heads(name, learned, world):
    method, order = learned[name], torch.tensor([2, 0, 4, 1, 3])
    context = world.test.context(torch.arange(4))
    w, permuted = draw(method, context), draw(method, Context(context.rows[:, order]))
    space = method.learner.space
    expected = space.tokens(w)[space.slot_layer][:, order]
    assert_close(space.tokens(permuted)[space.slot_layer], expected, rtol=1e-3, atol=1e-4 * w.abs().max().item())


@pytest.mark.parametrize("name", [*FROM_ROWS, *TRAINED])
def test_any_number_of_names(name, learned, world):
    names = world.test.draw(3, generator(0, "ways"), n_way=9)
    w = draw(learned[name], world.test.of.context(names))
    assert w.shape == (3, learned[name].space.dim(9)) and w.isfinite().all()


@pytest.mark.parametrize("name", [*FROM_ROWS, "ltdi", "icis"])
def test_a_method_comes_back_from_its_file(name, learned, world, tmp_path):
    own = {"icis": {"width": 32, "classes_a_batch": 16}}.get(name, {})
    write_method(tmp_path, name, learned[name], world.setup(meta=LEARNING), own)
    again, context = read_method(tmp_path, name, None, "cpu"), world.test.context(torch.arange(4))
    assert_close(draw(again, context), draw(learned[name], context), rtol=0, atol=0)


def test_what_needs_examples_or_names_refuses_in_one_line(world):
    for name in ("prototype", "ridge", "head_sgd", "metadiff"):
        with pytest.raises(InputError, match=f"^method.name = '{name}' needs labelled examples[^\n]*$"):
            build(name, world.initialization, world.setup(), {}, seed=0)
    for name in ("conse", "icis"):
        setup = world.setup()
        object.__setattr__(setup, "provides", frozenset({"classes", "examples"}))
        with pytest.raises(InputError, match=f"^method.name = '{name}' needs the names of its classes[^\n]*$"):
            build(name, world.initialization, setup, {}, seed=0)
