"""Tasks without pictures, classes or heads: every method fits them, or refuses in one line.

A new method stands in one of the two sets.
"""

import math
from functools import partial
from itertools import islice

import pytest
import torch
from sines import N_SHOT, SineNetwork, Sines, SineWorld, context_of
from torch import Tensor
from torch.testing import assert_close
from worlds import OWN, PAPER, draw, stirred

from ltdi.initialization import INITIALIZATIONS
from ltdi.learners import LEARNERS
from ltdi.methods.common.base import scores
from ltdi.methods.common.test_time_refinement import TestTimeRefinement
from ltdi.methods.common.trained import TrainedMethod
from ltdi.methods.registry import BASELINES, METHODS, build
from ltdi.methods.storage import read_method, write_method
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks.base import Context, Task, TaskSource
from ltdi.trajectories.collection import collect
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

pytestmark = pytest.mark.slow

FITTING = {
    "weight_regression",
    *("lvdi", "ltdi", "mcdi", "naive_local", "meta_hypernetwork", "ocd", "llo_vae", "weight_flow"),
    *("head_sgd", "mean_head", "nearest_head"),
}
# what a method that refuses misses first
REFUSING = {
    **dict.fromkeys(
        ("prototype", "ridge", "prototype_sgd", "nearest_unit", "simpleshot", "logistic", "lda", "metadiff"),
        "weights that hold a linear classifier",
    ),
    **dict.fromkeys(
        ("nearest_name", "softmax_rows", "text_ridge", "kernel_ridge", "eszsl", "conse", "icis", "ghn3"),
        "weights that hold a linear classifier",
    ),
    "adaptive_ridge": "weights that hold a linear classifier",
    **dict.fromkeys(("reptile_names", "meta_baseline_names"), "weights that hold a linear classifier"),
    "reptile_head": "tasks made of classes",
    "reptile": "the images of its tasks",
    "meta_baseline": "the images of its tasks",
}
DIFFUSIONS = ("lvdi", "ltdi", "mcdi", "naive_local")
NETWORKS = (*DIFFUSIONS, "ocd", "weight_flow")
TRAINED = sorted(name for name in FITTING if issubclass((METHODS | BASELINES)[name], TrainedMethod))
# name, start, changes of DIFFUSION, changes of DENOISER
VARIANTS = [
    *((name, "shared", {}, {}) for name in sorted(FITTING)),
    *((name, "fresh", PAPER, {"name": "unet"}) for name in NETWORKS),
    *((name, "shared", {}, {"name": "unet", "condition": "attention"}) for name in NETWORKS),
    *((name, "fresh", {}, {"condition": "attention"}) for name in ("llo_vae", "meta_hypernetwork")),
    ("ltdi", "shared", {"prediction": "v", "gradient_input": True}, {}),
]


@pytest.fixture(scope="module")
def worlds():
    return {kind: SineWorld(kind) for kind in ("shared", "fresh")}


@pytest.fixture(scope="module")
def world(worlds):
    return worlds["shared"]


def test_it_is_a_source_of_tasks(world):
    source: TaskSource = world.train
    tasks = torch.tensor([5, 2])
    task = source.take(tasks).batch(torch.arange(2))
    assert_close(task.context.rows, source.context(tasks).rows, rtol=0, atol=0)
    assert task.context.rows.shape == (2, 1, N_SHOT, 2) and task.context.means.shape == (2, 1, 2)
    assert source.description(tasks) != source.description(torch.tensor([2, 5]))
    assert len(source.new(source.draw(7, generator(0, "new")), generator(0, "new"), n_shot=1).context) == 7


def test_training_fits_the_sines(world):
    learner, everything = world.initialization.learner, world.train.fitted_on(torch.arange(40))
    losses = [learner.loss(world.points[:, i], everything).mean() for i in range(4)]
    assert losses == sorted(losses)


# --- who takes it


def test_every_method_and_baseline_either_fits_or_refuses():
    assert set(METHODS | BASELINES) == FITTING | set(REFUSING) and not FITTING & set(REFUSING)


@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("kind", ["shared", "fresh"])
def test_refusing_is_one_line_with_what_is_needed_and_allowed(name, kind, worlds):
    with pytest.raises(InputError) as refused:
        build(name, worlds[kind].initialization, worlds[kind].setup(), OWN.get(name, {}), seed=0)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"method.name = '{name}' needs {REFUSING[name]}, and SineNetwork on these tasks has none")
    assert set(message.partition("allowed: ")[2].split(", ")) == FITTING


@pytest.mark.parametrize("kind", ["prototype", "ridge"])
def test_a_closed_form_is_refused_in_one_line(kind, world):
    with pytest.raises(InputError, match=f"^the start {kind} is a linear classifier.*SineNetwork.*choose another$"):
        INITIALIZATIONS[kind](world.initialization.learner, world.initialization.shared).centre(world.context)


# --- the contract


def label(variant) -> str:
    name, kind, diffusion, denoiser = variant
    return "-".join([name, kind, *map(str, diffusion), *map(str, denoiser.values())])


@pytest.fixture(scope="module", params=VARIANTS, ids=label)
def case(request, worlds):
    """A method whose every parameter counts, a function that builds an empty one, and contexts."""
    name, kind, diffusion, denoiser = request.param
    world, changes = worlds[kind], {"diffusion": diffusion, "denoiser": denoiser}
    return stirred(world.prepared(name, **changes)), lambda: world.build(name, **changes), world.context


def test_weights_are_one_finite_row_a_task(case):
    method, _, context = case
    w = draw(method, context)
    assert w.shape == (len(context), method.space.dim())
    assert w.isfinite().all() and not w.requires_grad


def test_generating_is_repeatable_and_changes_nothing(case):
    method, _, context = case
    before, rows = {name: value.clone() for name, value in method.state_dict().items()}, context.rows.clone()
    assert_close(draw(method, context), draw(method, context), rtol=0, atol=0)
    assert_close(method.state_dict(), before, rtol=0, atol=0)
    assert_close(context.rows, rows, rtol=0, atol=0)


def test_the_state_dict_is_the_whole_artefact(case, tmp_path):
    method, build, context = case
    write_tensors(tmp_path / "method.safetensors", method.state_dict(), kind="method")
    again = build()
    again.load_state_dict(read_tensors(tmp_path / "method.safetensors", kind="method")[0])
    assert_close(draw(again.eval(), context), draw(method, context), rtol=0, atol=0)


def test_a_task_does_not_depend_on_its_neighbours(case):
    method, _, context = case
    alone = torch.cat([draw(method, context[j : j + 1]) for j in range(len(context))])
    size = alone.abs().max()
    assert_close(draw(method, context) / size, alone / size, rtol=1e-4, atol=1e-5)
    assert_close(draw(method, context[torch.tensor([4, 1])]) / size, alone[[4, 1]] / size, rtol=1e-4, atol=1e-5)


def test_what_is_known_is_heard(case):
    method, _, context = case
    w = draw(method, context)
    assert (len(w.unique(dim=0)) == 1) == (type(method) is BASELINES["mean_head"])


def test_the_order_of_the_rows_changes_nothing(case):
    method, _, context = case
    assert_close(draw(method, context_of(context.rows.flip(2))), draw(method, context), rtol=1e-3, atol=1e-3)


def test_rows_that_are_not_there_change_nothing(case, world):
    """A context of unequal numbers of rows is, task by task, the rows alone."""
    method, _, _ = case
    shots = torch.tensor([1, 4, 2, 3, 4])
    rows = world.val.new(world.val.waves[:5], generator(0, "rows"), n_shot=4).context.rows
    mask = torch.arange(4) < shots[:, None, None]
    w = draw(method, context_of(rows.where(mask[..., None], 1e3), mask))
    alone = torch.cat([draw(method, context_of(rows[j : j + 1, :, :k])) for j, k in enumerate(shots.tolist())])
    size = alone.abs().max()
    assert_close(w / size, alone / size, rtol=1e-4, atol=1e-5)


# --- learning


@pytest.mark.parametrize("name", TRAINED)
def test_meta_training_lowers_the_loss(name, world):
    method = world.prepared(name, meta={"recorded_tasks": 40, "new_tasks": 40, "query_loss": 1.0})
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=60, ema=0.9))]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("name", ["lvdi", "ltdi", "meta_hypernetwork", "weight_flow"])
def test_what_is_learned_helps_on_new_tasks_and_is_kept(name, world):
    method = world.prepared(name, meta={"recorded_tasks": 40, "new_tasks": 40, "query_loss": 1.0})

    def score() -> float:
        return scores(method.learner, world.val, lambda context: draw(method, context)).mean().item()

    before = score()
    world.rows(method, Training(method, lr=1e-2, steps=60, ema=0.9))
    method.eval().finish(world.val, seed=0)
    assert (method.update_scale > 0).any()
    assert score() > before
    assert all(math.isfinite(loss) for loss in method.validate(world.val, world.val_trajectories, seed=0).values())


@pytest.mark.parametrize("inner", [{}, {"inner_steps": 2, "inner_optimizer": "adam", "inner_lr": 1e-3}])
@pytest.mark.parametrize("name", ["ltdi", "llo_vae", "weight_flow"])
def test_meta_training_resumes_bit_for_bit(name, inner, world):
    def begin():
        method = world.prepared(name, meta=inner)
        return method, Training(method, lr=5e-3, steps=4, ema=0.9)

    straight, training = begin()
    rows = world.rows(straight, training)
    stopped, half = begin()
    first = list(islice(stopped.meta_train(half, world.train, world.trajectories, seed=0), 2))
    method, resumed = begin()
    resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    assert first + world.rows(method, resumed) == rows
    assert_close(resumed.state_dict(), training.state_dict(), rtol=0, atol=0)


def test_gradient_steps_on_the_examples_lower_their_loss(world):
    method = stirred(world.prepared("ltdi"))
    adapted = TestTimeRefinement(method, heads=2, adapt_steps=20, adapt_lr=1e-2)
    before, after = (
        world.initialization.learner.loss(draw(m, world.context), world.context.examples) for m in (method, adapted)
    )
    assert (after < before).all()


# --- the same without examples, as where words are all that is known


class Untold(Sines):
    @staticmethod
    def _task(waves: Tensor, x: Tensor, n_shot: int) -> Task:
        task = Sines._task(waves, x, n_shot)
        return Task(Context(task.context.rows), task.query)


class UntoldWorld(SineWorld):
    source, provides = Untold, frozenset()


@pytest.fixture(scope="module")
def untold():
    return UntoldWorld("shared")


UNADAPTED = {"meta_hypernetwork": {"adapt_steps": 0}}


@pytest.mark.parametrize("name", sorted(FITTING - {"head_sgd"}))
def test_without_examples_the_weights_are_the_same(name, untold, world):
    """Where no step is taken on them."""
    own = UNADAPTED.get(name, {})
    w = draw(stirred(untold.prepared(name, own=own)), untold.context)
    assert_close(w, draw(stirred(world.prepared(name, own=own)), world.context), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_without_examples_it_is_trained(name, untold):
    method = untold.prepared(name, own=UNADAPTED.get(name, {}))
    rows = untold.rows(method, Training(method, lr=1e-2, steps=3, ema=0.9))
    assert len(rows) == 3 and all(math.isfinite(row["loss"]) for row in rows)


def test_what_takes_steps_on_examples_is_refused_in_one_line(untold):
    def refused(what, expected):
        with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            what()

    gradient, method = {"gradient_input": True}, untold.prepared("ltdi")
    refused(lambda: untold.build("head_sgd"), "'head_sgd' needs labelled examples")
    refused(lambda: untold.build("meta_hypernetwork"), "adapt_steps = 1 .* labelled examples.*; set 0")
    refused(lambda: untold.build("ltdi", diffusion=gradient), "gradient_input = true .* labelled examples.*; set false")
    refined = TestTimeRefinement(method, heads=1, adapt_steps=2, adapt_lr=0.1)
    refused(lambda: draw(refined, untold.context), "generate.adapt_steps = 2 .* labelled examples.*; set 0")
    hparams = {"augment": False, "optimizer": "adam", "lr": 0.1, "steps": 2, "length": 2, "sam": 0.0, "seed": 0}
    fit = partial(collect, untold.initialization, untold.train, torch.arange(4), fit_on="support", **hparams)
    refused(fit, "fit_on = support .* labelled examples.*; set class")


# --- as a file


@pytest.mark.parametrize("name", ["ltdi", "nearest_head"])
@pytest.mark.parametrize("kind", ["shared", "fresh"])
def test_a_method_comes_back_from_its_file(name, kind, worlds, tmp_path, monkeypatch):
    monkeypatch.setitem(LEARNERS, "sine_network", SineNetwork)
    world, setup = worlds[kind], worlds[kind].setup()
    method = stirred(world.prepared(name))
    write_method(tmp_path, name, method, setup, OWN.get(name, {}))
    again = read_method(tmp_path, name, None, "cpu")
    assert_close(draw(again, world.context), draw(method, world.context), rtol=0, atol=0)
