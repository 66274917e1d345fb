"""Meta-training: it lowers the loss, resumes bit for bit, and chooses its update scale on meta-val."""

from itertools import islice

import pytest
import torch
from every_method import DIFFUSIONS, METHODS, TRAINED, context_with, every_world, from_images, masked
from torch.testing import assert_close
from worlds import N_WAY, PAPER, draw, stirred

from ltdi.diffusion.denoiser import DENOISERS
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

REPTILE = {"inner_steps": 2, "inner_optimizer": "adam", "inner_lr": 1e-3}

# an operation that falls back to a loop under vmap would loop over tasks
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")


@pytest.fixture(scope="module")
def worlds():
    return every_world()


@pytest.fixture(scope="module")
def world(worlds):
    return worlds["prototype", False]


@pytest.mark.parametrize("name", TRAINED)
def test_the_strength_scales_the_way_from_the_centre(name, worlds):
    world = worlds["prototype", False]
    method = stirred(world.prepared(name))
    centre, whole = world.initialization.centre(world.context), draw(method, world.context)
    method.update_scale.fill_(0.25)
    assert_close(draw(method, world.context), torch.lerp(centre, whole, 0.25), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_shot, update_scale", [(1, 0.25), (2, 0.5), (3, 0.5), (4, 1.0), (5, 1.0), (9, 1.0)])
def test_the_strength_is_that_of_the_nearest_number_of_images(n_shot, update_scale, worlds):
    """By their ratio."""
    world = worlds["prototype", False]
    method, context = stirred(world.prepared("ltdi")), context_with(world, N_WAY, n_shot)
    centre, whole = world.initialization.centre(context), draw(method, context)
    method.update_scale.copy_(torch.tensor([0.25, 0.5, 1.0]))
    assert_close(draw(method, context), torch.lerp(centre, whole, update_scale), rtol=1e-4, atol=1e-5)


def test_of_classes_of_unequal_numbers_their_mean_decides_the_strength(worlds):
    world = worlds["prototype", False]
    method = stirred(world.prepared("ltdi"))
    context = masked(context_with(world, N_WAY, 4, n_tasks=2), torch.tensor([[1, 1, 4], [4, 4, 1]]))
    centre, whole = world.initialization.centre(context), draw(method, context)
    method.update_scale.copy_(torch.tensor([0.25, 0.5, 0.75]))
    assert_close(draw(method, context)[0], torch.lerp(centre, whole, 0.5)[0], rtol=1e-4, atol=1e-5)
    method.update_scale.copy_(torch.tensor([0.0, 0.5, 0.75]))
    assert_close(draw(method, context)[1], torch.lerp(centre, whole, 0.5)[1], rtol=1e-4, atol=1e-5)


def test_a_number_of_images_that_meta_val_has_not_takes_the_strength_of_the_one_below(worlds):
    world = worlds["shared", False]
    few = Classes(world.val.of.features.unflatten(0, (12, 10))[:, :5].flatten(0, 1), torch.full((12,), 5))
    val = ClassTasks.sample(few, n_tasks=4, n_way=N_WAY, n_shot=2, n_query=3, seed=0, split="few")
    method = stirred(world.prepared("ltdi"))
    method.update_scale.copy_(torch.tensor([1.0, 1.0, 0.125]))
    method.finish(val, seed=0)
    assert method.update_scale[2] == method.update_scale[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_what_does_harm_on_meta_val_is_left_out(name, worlds):
    world = worlds["prototype", False]
    method = stirred(world.prepared(name))
    with torch.no_grad():
        method.layer_scale.mul_(100)
    if name == "ocd":
        method.mean_log_scale.add_(6)
    method.finish(world.val, seed=0)
    assert (method.update_scale < 1).all()


def test_what_helps_on_meta_val_is_kept(worlds):
    """From the centre of a fresh start, zero, every class scores the same."""
    world = worlds["shared", False]
    method = world.prepared("ltdi", meta={"query_loss": 1.0})
    world.rows(method, Training(method, lr=1e-2, steps=60, ema=0.9))
    method.finish(world.val, seed=0)
    assert (method.update_scale > 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize(
    "kind, diffusion, denoiser", [("shared", {}, "transformer"), ("fresh", PAPER, "unet")], ids=["ours", "paper"]
)
def test_the_loss_falls(name, kind, diffusion, denoiser, worlds):
    world = worlds[kind, False]
    method = world.prepared(name, diffusion=diffusion, denoiser={"name": denoiser}, meta={"recorded_tasks": 40})

    @torch.no_grad()
    def loss():
        """Of the recorded tasks, over all times."""
        batch = method.draw_inputs(world.train.batch(torch.arange(40)), world.points, generator(0, "loss"))
        phi = dict(method.named_parameters())
        return sum(method.functional_loss(phi, batch, visit=t).mean().item() for t in range(1, 5))

    untrained = loss()
    rows = world.rows(method, Training(method, lr=1e-2, steps=60, ema=0.9))
    assert [row["step"] for row in rows] == list(range(1, 61))
    # several targets for one state leave Mc-Di a loss that no denoiser takes away
    assert loss() < (0.95 if name == "mcdi" else 0.8) * untrained


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, meta",
    [*((name, {}) for name in METHODS), *((name, REPTILE) for name in ("ltdi", "llo_vae"))],
    ids=lambda value: value if isinstance(value, str) else next(iter(value), "joint"),
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_meta_training_resumes_bit_for_bit(name, meta, dropout, worlds, tmp_path):
    world = worlds["prototype", from_images(name)]

    def begin():
        method = world.prepared(name, meta=meta, denoiser={"dropout": dropout})
        return method, Training(method, lr=5e-3, steps=6, ema=0.9)

    straight, training = begin()
    rows = world.rows(straight, training)

    stopped, half = begin()
    first = list(islice(stopped.meta_train(half, world.train, world.trajectories, seed=0), 3))
    write_tensors(tmp_path / "checkpoint.safetensors", half.state_dict(), kind="checkpoint")
    method, resumed = begin()
    resumed.load_state_dict(read_tensors(tmp_path / "checkpoint.safetensors", kind="checkpoint")[0])

    assert first + world.rows(method, resumed) == rows
    assert_close(resumed.state_dict(), training.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("denoiser", DENOISERS)
def test_inner_loops_of_several_steps_learn(optimizer, denoiser, worlds):
    world, lr = worlds["shared", False], 1e-2 if optimizer == "adam" else 1.0
    meta = {"inner_steps": 2, "inner_optimizer": optimizer, "inner_lr": lr, "recorded_tasks": 40, "query_loss": 0.0}
    method = world.prepared("ltdi", denoiser={"name": denoiser}, meta=meta)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}

    def loss():
        return sum(method.validate(world.train, world.trajectories, seed=0).values())

    untrained = loss()
    world.rows(method, Training(method, lr=1e-2, steps=32, ema=0.9))
    assert loss() < 0.93 * untrained
    assert [name for name, value in method.named_parameters() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("name", ["ltdi", "lvdi", "naive_local"])
def test_the_loss_is_that_of_the_state_that_generation_visits(name, world):
    method = stirred(world.prepared(name, diffusion={"start_noise": 0.0}, meta={"weight_loss": 0.3, "query_loss": 0.7}))
    task, points = world.train.batch(torch.arange(6)), world.points[:6]
    centre, process, phi = world.initialization.centre(task.context), method.process, dict(method.named_parameters())
    recorded, new = (method.draw_inputs(task, given, generator(0, "batch")) for given in (points, None))
    states = method.to_x(
        method.sampling_trajectory(task.context, centre, generator=generator(0, "noise")), centre
    ).detach()
    for visit in range(1, 5):
        t, x_t = torch.full((6,), visit), states[4 - visit]
        i = process.target(t)
        epsilon = method.epsilon(dict(method.denoiser.named_parameters()), x_t, t, recorded)
        w_i = method.to_x(points, centre[:, None])[range(6), i]
        weights = 0.3 * process.loss(epsilon, x_t, t, i, w_i, "weights", method.coordinate_weights(x_t.shape[-1]))
        w = method.to_w(process.endpoint(epsilon, x_t, t, i), centre)
        query = 0.7 * world.head.loss(w, task.query)
        assert_close(method.functional_loss(phi, recorded, visit=visit), weights + query, rtol=1e-3, atol=1e-4)
        assert_close(method.functional_loss(phi, new, visit=visit), query, rtol=1e-3, atol=1e-4)


def test_a_step_visits_every_time_equally_often(world):
    visits = [world.build("ltdi").step_loss(generator(seed, "step")).keywords["visit"] for seed in range(400)]
    counts = torch.tensor(visits).bincount()
    # each is binomial(400, 1/4), with deviation 9
    assert not counts[0] and len(counts) == 5 and (counts[1:] - 100).abs().max() < 45


def test_validation_has_a_loss_for_every_sub_chain(world):
    of_ltdi = world.prepared("ltdi").validate(world.val, world.val_trajectories, seed=0)
    of_lvdi = world.prepared("lvdi").validate(world.val, world.val_trajectories, seed=0)
    assert list(of_ltdi) == ["val_loss_w0", "val_loss_w1", "val_loss_w2"]
    assert list(of_lvdi) == ["val_loss_w0"]
    assert all(value > 0 for value in (of_ltdi | of_lvdi).values())


def test_the_chain_ends_at_the_generated_weights(world):
    method = world.prepared("ltdi")
    states = method.generate_sampling_trajectory(world.context, generator=generator(0, "noise"))
    assert states.shape == (5, len(world.context), method.space.dim(N_WAY))
    assert_close(states[-1], draw(method, world.context), rtol=0, atol=0)
    assert not torch.equal(states[0], states[-1])
