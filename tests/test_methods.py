"""The contract that every method and every control keeps, and what each control must be able to do."""

from itertools import islice, product

import pytest
import torch
from torch.testing import assert_close

from ltdi.diffusion.denoiser import DENOISERS
from worlds import N_WAY, PAPER, World, draw, stirred

from ltdi.methods import CONTROLS, METHODS
from ltdi.methods.base import TrainedMethod
from ltdi.methods.diffusion_method import DiffusionMethod
from ltdi.methods.head_sgd import RATES, STEPS
from ltdi.metrics import accuracy, mean_and_ci95, nearest_mean_accuracy
from ltdi.seeding import generator
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks import Support, labelled
from ltdi.training import Training

DIFFUSIONS = [name for name, cls in METHODS.items() if issubclass(cls, DiffusionMethod)]
REPTILE = {"inner_steps": 2, "inner_optimizer": "adam", "inner_lr": 1e-3}
STARTS = ("fresh", "shared", "prototype", "ridge", "encoded")
# an operation that falls back to a loop under vmap would loop over tasks
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")
# name, start, changes of DIFFUSION, changes of DENOISER
VARIANTS = [
    *((name, kind, {}, {}) for name in METHODS for kind in ("prototype", "encoded")),
    *((name, "shared", {}, {}) for name in METHODS if name not in DIFFUSIONS),
    *((name, "fresh", PAPER, {"name": "unet"}) for name in DIFFUSIONS),
    ("ltdi", "shared", {"prediction": "v", "gradient_input": True}, {"condition": "attention"}),
    ("ltdi", "encoded", {"prediction": "difference"}, {}),
    ("ltdi", "ridge", {"chain_noise": 1.0}, {"name": "unet", "condition": "attention"}),
    *((name, kind, {}, {}) for name in CONTROLS for kind in ("prototype", "encoded")),
    ("head_sgd", "fresh", {}, {}),
    ("prototype_sgd", "ridge", {}, {}),
]


def label(variant) -> str:
    name, kind, diffusion, denoiser = variant
    return "-".join([name, kind, *map(str, diffusion), *map(str, denoiser.values())])


@pytest.fixture(scope="module")
def worlds():
    return {(kind, images): World(kind, with_images=images) for kind in STARTS for images in (False, True)}


@pytest.fixture(scope="module")
def world(worlds):
    return worlds["prototype", False]


@pytest.fixture(scope="module", params=VARIANTS, ids=label)
def case(request, worlds):
    """A method whose every parameter counts, a function that builds an empty one, and support sets."""
    name, kind, diffusion, denoiser = request.param
    world = worlds[kind, (METHODS | CONTROLS)[name].from_images]
    method = stirred(world.prepared(name, diffusion=diffusion, denoiser=denoiser))
    return method, lambda: world.build(name, diffusion=diffusion, denoiser=denoiser), world.support


# --- the contract


def test_weights_are_one_finite_row_a_task(case):
    method, _, support = case
    w = draw(method, support)
    assert w.shape == (len(support), method.space.dim)
    assert w.isfinite().all()
    assert not w.requires_grad


def test_generating_is_repeatable_and_changes_nothing(case):
    method, _, support = case
    before = {name: value.clone() for name, value in method.state_dict().items()}
    features = support.features.clone()
    assert_close(draw(method, support), draw(method, support), rtol=0, atol=0)
    assert_close(method.state_dict(), before, rtol=0, atol=0)
    assert_close(support.features, features, rtol=0, atol=0)


def test_the_state_dict_is_the_whole_artefact(case, tmp_path):
    method, build, support = case
    write_tensors(tmp_path / "method.safetensors", method.state_dict(), {"method": type(method).__name__})
    again = build()
    again.load_state_dict(read_tensors(tmp_path / "method.safetensors")[0])
    assert_close(draw(again.eval(), support), draw(method, support), rtol=0, atol=0)


def test_a_task_does_not_depend_on_its_neighbours(case):
    method, _, support = case
    alone = torch.cat([draw(method, support[j : j + 1]) for j in range(len(support))])
    assert_close(draw(method, support), alone, rtol=1e-4, atol=1e-5)
    assert_close(draw(method, support[torch.tensor([4, 1])]), alone[[4, 1]], rtol=1e-4, atol=1e-5)


def test_controls_are_learned_without_gradients(world):
    for name in CONTROLS:
        method = world.build(name)
        training = Training(torch.nn.Linear(1, 1), lr=0.1, steps=3, ema=0.9)
        assert not list(method.parameters())
        assert world.rows(method, training) == []
        assert method.validate(world.val, world.val_trajectories, seed=0) == {}


@pytest.mark.parametrize("name", METHODS | CONTROLS)
def test_only_methods_that_say_so_look_at_what_the_encoder_says(name, worlds):
    world = worlds["encoded", (METHODS | CONTROLS)[name].from_images]
    method, support = stirred(world.prepared(name)), world.support
    other = Support(support.features, support.images, 2 * support.encoded)
    assert torch.equal(draw(method, support), draw(method, other)) == (not method.encodes)


TRAINED = [name for name, cls in METHODS.items() if issubclass(cls, TrainedMethod)]


@pytest.mark.parametrize("name", TRAINED)
def test_the_strength_scales_the_way_from_the_centre(name, worlds):
    world = worlds["encoded", False]
    method = stirred(world.prepared(name))
    centre, whole = world.start.centre(world.support), draw(method, world.support)
    method.strength.fill_(0.25)
    assert_close(draw(method, world.support), torch.lerp(centre, whole, 0.25), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_what_does_harm_on_meta_val_is_left_out(name, worlds):
    world = worlds["encoded", False]
    method = stirred(world.prepared(name))
    with torch.no_grad():
        method.layer_scale.mul_(100)
    if name == "ocd":
        method.mean_log_scale.add_(6)
    method.finish(world.val, seed=0)
    assert method.strength.item() < 1


def test_what_helps_on_meta_val_is_kept(worlds):
    """From the centre of a fresh start, zero, every class scores the same."""
    world = worlds["shared", False]
    method = world.prepared("ltdi", meta={"query_loss": 1.0, "tasks_a_batch": 40})
    world.rows(method, Training(method, lr=1e-2, steps=60, ema=0.9))
    method.finish(world.val, seed=0)
    assert method.strength.item() > 0.5


# --- the diffusion methods


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize("kind, diffusion, denoiser", [("shared", {}, "transformer"), ("fresh", PAPER, "unet")], ids=["ours", "paper"])
def test_the_loss_falls(name, kind, diffusion, denoiser, worlds):
    world = worlds[kind, False]
    method = world.prepared(name, diffusion=diffusion, denoiser={"name": denoiser}, meta={"tasks_a_batch": 40})
    rows = world.rows(method, Training(method, lr=1e-2, steps=40, ema=0.9))
    losses = [row["loss"] for row in rows]
    assert [row["step"] for row in rows] == list(range(1, 41))
    # several targets for one state leave Mc-Di a loss that no denoiser takes away
    assert sum(losses[-5:]) < (0.95 if name == "mcdi" else 0.8) * sum(losses[:5])


@pytest.mark.parametrize(
    "name, meta",
    [*((name, {"fresh": 0.25}) for name in METHODS), *((name, REPTILE) for name in ("ltdi", "llo_vae"))],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_meta_training_resumes_bit_for_bit(name, meta, worlds, tmp_path):
    world = worlds["prototype", METHODS[name].from_images]

    def begin():
        method = world.prepared(name, meta=meta)
        return method, Training(method, lr=5e-3, steps=6, ema=0.9)

    straight, training = begin()
    rows = world.rows(straight, training)

    stopped, half = begin()
    first = list(islice(stopped.meta_train(half, world.train, world.trajectories, seed=0), 3))
    write_tensors(tmp_path / "checkpoint.safetensors", half.state_dict())
    method, resumed = begin()
    resumed.load_state_dict(read_tensors(tmp_path / "checkpoint.safetensors")[0])

    assert first + world.rows(method, resumed) == rows
    assert_close(resumed.state_dict(), training.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("denoiser", DENOISERS)
def test_inner_loops_of_several_steps_learn(optimizer, denoiser, worlds):
    meta = {"inner_steps": 2, "inner_optimizer": optimizer, "inner_lr": 1e-2 if optimizer == "adam" else 1.0, "tasks_a_batch": 40}
    method = worlds["shared", False].prepared("ltdi", denoiser={"name": denoiser}, meta=meta)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    losses = [row["loss"] for row in worlds["shared", False].rows(method, Training(method, lr=1e-2, steps=12, ema=0.9))]
    assert losses[-1] < 0.95 * losses[0]
    assert [name for name, value in method.named_parameters() if torch.equal(value, before[name])] == []


def test_validation_has_a_loss_for_every_sub_chain(world):
    of_ltdi = world.prepared("ltdi").validate(world.val, world.val_trajectories, seed=0)
    of_lvdi = world.prepared("lvdi").validate(world.val, world.val_trajectories, seed=0)
    assert list(of_ltdi) == ["val_loss_w0", "val_loss_w1", "val_loss_w2"]
    assert list(of_lvdi) == ["val_loss_w0"]
    assert all(value > 0 for value in (of_ltdi | of_lvdi).values())


def test_the_chain_ends_at_the_generated_weights(world):
    method = world.prepared("ltdi")
    states = method.generate_chain(world.support, generator=generator(0, "noise"))
    assert states.shape == (5, len(world.support), method.head.space.dim)
    assert_close(states[-1], draw(method, world.support), rtol=0, atol=0)
    assert not torch.equal(states[0], states[-1])


@pytest.mark.parametrize("kind, condition", [("prototype", "mean"), ("ridge", "attention")])
def test_permuted_classes_permute_the_output_layer(kind, condition, worlds):
    """Exact for the transformer once the noise, which has an order of its own, is left out."""
    world, permutation = worlds[kind, False], torch.tensor([2, 0, 1])
    method = stirred(world.prepared("ltdi", diffusion={"start_noise": 0.0}, denoiser={"condition": condition}))
    space = method.head.space
    w = space.unflatten(draw(method, world.support))
    permuted = space.unflatten(draw(method, Support(world.support.features[:, permutation])))
    for name in ("output.weight", "output.bias"):
        assert_close(permuted[name], w[name][:, permutation], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(permuted[name], w[name], atol=1e-3)
    for name in ("hidden.weight", "hidden.bias"):
        assert_close(permuted[name], w[name], rtol=1e-4, atol=1e-5)


# --- what each control is


def test_nearest_head_knows_the_training_tasks(world):
    method = world.prepared("nearest_head")
    tasks = torch.tensor([7, 0, 31])
    assert_close(draw(method, world.train.support_of(tasks)), world.trajectories.points[tasks, 0], rtol=0, atol=0)


def test_mean_head_ignores_the_support(world):
    w = draw(world.prepared("mean_head"), world.support)
    assert_close(w, world.trajectories.points[:, 0].mean(0).expand_as(w))


def test_prototype_is_the_nearest_class_mean(world):
    task = world.val.batch(torch.arange(len(world.val)))
    features, labels = labelled(task.query.features)
    scores = accuracy(world.start.head(draw(world.build("prototype"), task.support), features), labels)
    assert_close(scores, nearest_mean_accuracy(task.support.features, task.query.features))


@pytest.mark.parametrize("name", ["prototype", "ridge", "head_sgd", "prototype_sgd"])
def test_controls_that_see_the_support_beat_chance(name, world):
    task = world.val.batch(torch.arange(len(world.val)))
    features, labels = labelled(task.query.features)
    mean, _ = mean_and_ci95(accuracy(world.start.head(draw(world.prepared(name), task.support), features), labels))
    assert mean > 2 / N_WAY


def test_trained_controls_take_the_best_knobs_on_meta_val(world):
    method = world.prepared("head_sgd")
    task = world.val.batch(torch.arange(len(world.val)))
    features, labels = labelled(task.query.features)

    def score(steps: int, lr: float) -> float:
        method.steps.fill_(steps)
        method.lr.fill_(lr)
        return accuracy(world.start.head(draw(method, task.support), features), labels).mean().item()

    chosen = score(int(method.steps), method.lr.item())
    assert chosen == max(score(steps, lr) for steps, lr in product(STEPS, RATES))
    assert chosen > score(STEPS[0], RATES[0])
