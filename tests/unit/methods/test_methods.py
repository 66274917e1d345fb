"""The contract that every method and every baseline keeps."""

import pytest
import torch
from every_method import (
    BASELINES,
    DIFFUSIONS,
    METHODS,
    TRAINED,
    context_with,
    every_world,
    from_images,
    images_of,
    masked,
)
from torch.testing import assert_close
from worlds import N_WAY, PAPER, draw, stirred

from ltdi.store import read_tensors, write_tensors
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.trainer import Training

# an operation that falls back to a loop under vmap would loop over tasks
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")
# name, start, changes of DIFFUSION, changes of DENOISER
VARIANTS = [
    *((name, kind, {}, {}) for name in METHODS for kind in ("prototype", "ridge")),
    *((name, "shared", {}, {}) for name in METHODS if name not in DIFFUSIONS),
    *((name, "fresh", PAPER, {"name": "unet"}) for name in DIFFUSIONS),
    ("ltdi", "shared", {"prediction": "v", "gradient_input": True}, {"condition": "attention"}),
    ("ltdi", "ridge", {"prediction": "residual"}, {}),
    ("ltdi", "ridge", {"chain_noise": 1.0}, {"name": "unet", "condition": "attention"}),
    *((name, "prototype", {}, {}) for name in BASELINES),
    ("head_sgd", "fresh", {}, {}),
    ("prototype_sgd", "ridge", {}, {}),
]


def _marked(variant):
    """Of each method the start that is the default is tried by the fast tests."""
    return variant if variant[1:] == ("prototype", {}, {}) else pytest.param(variant, marks=pytest.mark.slow)


def label(variant) -> str:
    name, kind, diffusion, denoiser = variant
    return "-".join([name, kind, *map(str, diffusion), *map(str, denoiser.values())])


@pytest.fixture(scope="module")
def worlds():
    return every_world()


@pytest.fixture(scope="module")
def world(worlds):
    return worlds["prototype", False]


@pytest.fixture(scope="module", params=[_marked(variant) for variant in VARIANTS], ids=label)
def case(request, worlds):
    """A method whose every parameter counts, a function that builds an empty one, and contexts."""
    name, kind, diffusion, denoiser = request.param
    world = worlds[kind, from_images(name)]
    method = stirred(world.prepared(name, diffusion=diffusion, denoiser=denoiser))
    return method, lambda: world.build(name, diffusion=diffusion, denoiser=denoiser), world.context


def test_weights_are_one_finite_row_a_task(case):
    method, _, context = case
    w = draw(method, context)
    assert w.shape == (len(context), method.space.dim(N_WAY))
    assert w.isfinite().all()
    assert not w.requires_grad


def test_generating_is_repeatable_and_changes_nothing(case):
    method, _, context = case
    before = {name: value.clone() for name, value in method.state_dict().items()}
    rows = context.rows.clone()
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


def test_baselines_are_learned_without_gradients(world):
    for name in BASELINES:
        method = world.build(name)
        training = Training(torch.nn.Linear(1, 1), lr=0.1, steps=3, ema=0.9)
        assert not list(method.parameters())
        assert world.rows(method, training) == []
        assert method.validate(world.val, world.val_trajectories, seed=0) == {}


ANY_SIZE = [name for name, cls in (METHODS | BASELINES).items() if not cls.fixed_n_way]
NO_NOISE = {"diffusion": {"start_noise": 0.0}}
# methods whose weights are a function of the context alone, and what makes them so
FUNCTIONS = {
    **dict.fromkeys((*DIFFUSIONS, "ocd"), NO_NOISE),
    "weight_flow": {"own": {"noise": 0.0}},
    "llo_vae": {"own": {"temperature": 0.0}},
    **dict.fromkeys(("meta_hypernetwork", "ghn3", "prototype", "ridge", "prototype_sgd"), {}),
    **dict.fromkeys(("adaptive_ridge", "nearest_unit", "simpleshot", "logistic", "lda"), {}),
}


def test_which_methods_are_of_one_size(worlds):
    assert {name for name in METHODS | BASELINES if name not in ANY_SIZE} == {
        "reptile",
        "reptile_head",
        "head_sgd",
        "mean_head",
        "nearest_head",
    }
    for name in (*DIFFUSIONS, "ocd", "weight_flow"):
        assert [
            worlds["prototype", False].build(name, denoiser={"name": each}).fixed_n_way
            for each in ("transformer", "unet")
        ] == [False, True]


@pytest.mark.parametrize("n_way", [2, 7])
@pytest.mark.parametrize("kind", ["fresh", "prototype", "ridge"])
@pytest.mark.parametrize("name", ANY_SIZE)
def test_at_another_number_of_classes_it_is_what_was_built_for_that_number(name, kind, n_way, worlds):
    world = worlds[kind, from_images(name)]
    method, built = stirred(world.prepared(name)), world.build(name, n_way=n_way).eval()
    built.load_state_dict(method.state_dict())
    context = context_with(world, n_way, 4)
    w = draw(method, context)
    assert w.shape == (5, method.space.dim(n_way)) and w.isfinite().all()
    assert_close(draw(built, context), w, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ltdi", "ocd", "weight_flow"])
def test_a_unet_refuses_another_number_of_classes(name, worlds):
    world = worlds["prototype", False]
    method = world.build(name, denoiser={"name": "unet"})
    with pytest.raises(RuntimeError):
        draw(method, context_with(world, N_WAY + 1, 2))
    with pytest.raises(RuntimeError, match="size mismatch"):
        world.build(name, n_way=N_WAY + 1, denoiser={"name": "unet"}).load_state_dict(method.state_dict())


@pytest.mark.parametrize("n_way", [N_WAY, 7])
@pytest.mark.parametrize("kind, condition", [("prototype", "mean"), ("ridge", "attention")])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_permuted_classes_permute_the_output_layer(name, kind, condition, n_way, worlds):
    world, order = worlds[kind, False], torch.arange(n_way).roll(1)
    method = stirred(world.prepared(name, denoiser={"condition": condition}, **FUNCTIONS[name]))
    context = context_with(world, n_way, 3)
    w = method.space.tokens(draw(method, context))
    permuted = method.space.tokens(draw(method, context_of(context.rows[:, order])))
    assert_close(permuted["output"], w["output"][:, order], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(permuted["output"], w["output"], atol=1e-2)
    assert_close(permuted["hidden"], w["hidden"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("condition", ["mean", "attention"])
@pytest.mark.parametrize("name", ANY_SIZE)
def test_the_order_of_a_classs_images_changes_nothing(name, condition, worlds):
    world = worlds["ridge", from_images(name)]
    method, context = stirred(world.prepared(name, denoiser={"condition": condition})), context_with(world, 5, 4)
    images = images_of(context)
    other = context_of(context.rows.flip(2), images=None if images is None else images.flip(2))
    assert_close(draw(method, other), draw(method, context), rtol=1e-3, atol=1e-3)


# of every task a class has all four
SHOTS = torch.tensor([[4, 1, 2], [1, 4, 1], [3, 2, 4], [4, 4, 4], [2, 4, 3]])


@pytest.fixture(scope="module")
def unequal(case, worlds):
    """A method and a context of which ``masked`` shows a part."""
    method, _, context = case
    return method, context_with(worlds["prototype", images_of(context) is not None], N_WAY, 4)


def test_what_is_not_there_changes_nothing(unequal):
    method, context = unequal
    w = draw(method, masked(context, SHOTS))
    assert w.isfinite().all()
    assert_close(draw(method, masked(context, SHOTS, spoilt=True)), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_shot", [1, 2, 4])
def test_a_mask_that_leaves_equal_numbers_is_the_rows_alone(n_shot, unequal):
    method, context = unequal
    images = images_of(context)
    smaller = context_of(context.rows[:, :, :n_shot], images=None if images is None else images[:, :, :n_shot])
    w = draw(method, masked(context, torch.full((5, N_WAY), n_shot), spoilt=True))
    assert_close(w, draw(method, smaller), rtol=1e-4, atol=1e-4)


def test_a_task_of_unequal_classes_does_not_depend_on_its_neighbours(unequal):
    method, context = unequal
    alone = torch.cat([draw(method, masked(context, SHOTS)[j : j + 1]) for j in range(5)])
    size = alone.abs().max()
    assert_close(draw(method, masked(context, SHOTS)) / size, alone / size, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_dropout_is_of_training_alone(name, worlds):
    world = worlds["prototype", False]
    plain, method = (stirred(world.prepared(name, denoiser={"dropout": dropout})) for dropout in (0.0, 0.5))
    assert_close(draw(method, world.context), draw(plain, world.context), rtol=0, atol=0)
    if name != "ghn3":  # whose transformer is its own
        assert not torch.equal(draw(method.train(), world.context), draw(plain, world.context))
