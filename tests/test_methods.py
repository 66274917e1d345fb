"""The contract that every method and every control keeps, and what each control must be able to do."""

from itertools import islice, product

import pytest
import torch
from torch.testing import assert_close
from worlds import N_WAY, PAPER, World, draw, stirred

from ltdi import methods
from ltdi.classes import Classes, ClassTasks, context_of
from ltdi.diffusion.denoiser import DENOISERS
from ltdi.methods.diffusion_method import DiffusionMethod
from ltdi.methods.head_sgd import RATES, STEPS
from ltdi.methods.trained import TrainedMethod
from ltdi.metrics import mean_and_ci95, nearest_mean_accuracy
from ltdi.seeding import generator
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks import Context
from ltdi.training import Training

# those that tell classes from each other by their names have a world of their own, in test_described.py
METHODS, CONTROLS = (
    {name: method for name, method in each.items() if "names" not in method.needs}
    for each in (methods.METHODS, methods.CONTROLS)
)
DIFFUSIONS = [name for name, cls in METHODS.items() if issubclass(cls, DiffusionMethod)]
REPTILE = {"inner_steps": 2, "inner_optimizer": "adam", "inner_lr": 1e-3}
STARTS = ("fresh", "shared", "prototype", "ridge")
# an operation that falls back to a loop under vmap would loop over tasks
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")
# name, start, changes of DIFFUSION, changes of DENOISER
VARIANTS = [
    *((name, kind, {}, {}) for name in METHODS for kind in ("prototype", "ridge")),
    *((name, "shared", {}, {}) for name in METHODS if name not in DIFFUSIONS),
    *((name, "fresh", PAPER, {"name": "unet"}) for name in DIFFUSIONS),
    ("ltdi", "shared", {"prediction": "v", "gradient_input": True}, {"condition": "attention"}),
    ("ltdi", "ridge", {"prediction": "difference"}, {}),
    ("ltdi", "ridge", {"chain_noise": 1.0}, {"name": "unet", "condition": "attention"}),
    *((name, "prototype", {}, {}) for name in CONTROLS),
    ("head_sgd", "fresh", {}, {}),
    ("prototype_sgd", "ridge", {}, {}),
]


def from_images(name: str) -> bool:
    return "images" in (METHODS | CONTROLS)[name].needs


def _marked(variant):
    """Of each method the start that is the default is tried by the fast tests."""
    return variant if variant[1:] == ("prototype", {}, {}) else pytest.param(variant, marks=pytest.mark.slow)


def label(variant) -> str:
    name, kind, diffusion, denoiser = variant
    return "-".join([name, kind, *map(str, diffusion), *map(str, denoiser.values())])


@pytest.fixture(scope="module")
def worlds():
    return {(kind, images): World(kind, with_images=images) for kind in STARTS for images in (False, True)}


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


# --- the contract


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


def test_controls_are_learned_without_gradients(world):
    for name in CONTROLS:
        method = world.build(name)
        training = Training(torch.nn.Linear(1, 1), lr=0.1, steps=3, ema=0.9)
        assert not list(method.parameters())
        assert world.rows(method, training) == []
        assert method.validate(world.val, world.val_trajectories, seed=0) == {}


TRAINED = [name for name, cls in METHODS.items() if issubclass(cls, TrainedMethod)]


@pytest.mark.parametrize("name", TRAINED)
def test_the_strength_scales_the_way_from_the_centre(name, worlds):
    world = worlds["prototype", False]
    method = stirred(world.prepared(name))
    centre, whole = world.start.centre(world.context), draw(method, world.context)
    method.strength.fill_(0.25)
    assert_close(draw(method, world.context), torch.lerp(centre, whole, 0.25), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_shot, strength", [(1, 0.25), (2, 0.5), (3, 0.5), (4, 1.0), (5, 1.0), (9, 1.0)])
def test_the_strength_is_that_of_the_nearest_number_of_images(n_shot, strength, worlds):
    """By their ratio."""
    world = worlds["prototype", False]
    method, context = stirred(world.prepared("ltdi")), context_with(world, N_WAY, n_shot)
    centre, whole = world.start.centre(context), draw(method, context)
    method.strength.copy_(torch.tensor([0.25, 0.5, 1.0]))
    assert_close(draw(method, context), torch.lerp(centre, whole, strength), rtol=1e-4, atol=1e-5)


def test_of_classes_of_unequal_numbers_their_mean_decides_the_strength(worlds):
    world = worlds["prototype", False]
    method = stirred(world.prepared("ltdi"))
    context = masked(context_with(world, N_WAY, 4, n_tasks=2), torch.tensor([[1, 1, 4], [4, 4, 1]]))
    centre, whole = world.start.centre(context), draw(method, context)
    method.strength.copy_(torch.tensor([0.25, 0.5, 0.75]))
    assert_close(draw(method, context)[0], torch.lerp(centre, whole, 0.5)[0], rtol=1e-4, atol=1e-5)
    method.strength.copy_(torch.tensor([0.0, 0.5, 0.75]))
    assert_close(draw(method, context)[1], torch.lerp(centre, whole, 0.5)[1], rtol=1e-4, atol=1e-5)


def test_a_number_of_images_that_meta_val_has_not_takes_the_strength_of_the_one_below(worlds):
    world = worlds["shared", False]
    few = Classes(world.val.of.features.unflatten(0, (12, 10))[:, :5].flatten(0, 1), torch.full((12,), 5))
    val = ClassTasks.sample(few, n_tasks=4, n_way=N_WAY, n_shot=2, n_query=3, seed=0, split="few")
    method = stirred(world.prepared("ltdi"))
    method.strength.copy_(torch.tensor([1.0, 1.0, 0.125]))
    method.finish(val, seed=0)
    assert method.strength[2] == method.strength[1]


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
    assert (method.strength < 1).all()


def test_what_helps_on_meta_val_is_kept(worlds):
    """From the centre of a fresh start, zero, every class scores the same."""
    world = worlds["shared", False]
    method = world.prepared("ltdi", meta={"query_loss": 1.0})
    world.rows(method, Training(method, lr=1e-2, steps=60, ema=0.9))
    method.finish(world.val, seed=0)
    assert (method.strength > 0.5).all()


# --- tasks of other sizes

ANY_SIZE = [name for name, cls in (METHODS | CONTROLS).items() if not cls.one_size]
NO_NOISE = {"diffusion": {"start_noise": 0.0}}
# methods whose weights are a function of the context alone, and what makes them so
FUNCTIONS = {
    **dict.fromkeys((*DIFFUSIONS, "ocd"), NO_NOISE),
    "weight_flow": {"own": {"noise": 0.0}},
    "llo_vae": {"own": {"temperature": 0.0}},
    **dict.fromkeys(("meta_hypernetwork", "ghn3", "prototype", "ridge", "prototype_sgd"), {}),
    **dict.fromkeys(("nearest_unit", "simpleshot", "logistic", "lda"), {}),
}


def context_with(world, n_way, n_shot, n_tasks=5) -> Context:
    """Of new tasks of the split that nothing was trained on."""
    stream = generator(0, "another size")
    return world.val.new(world.val.draw(n_tasks, stream, n_way=n_way), stream, n_shot=n_shot).context


def test_which_methods_are_of_one_size(worlds):
    assert {name for name in METHODS | CONTROLS if name not in ANY_SIZE} == {
        "reptile",
        "reptile_head",
        "head_sgd",
        "mean_head",
        "nearest_head",
    }
    for name in (*DIFFUSIONS, "ocd", "weight_flow"):
        assert [
            worlds["prototype", False].build(name, denoiser={"name": each}).one_size for each in ("transformer", "unet")
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


# --- classes of unequal numbers of images

# of every task a class has all four
SHOTS = torch.tensor([[4, 1, 2], [1, 4, 1], [3, 2, 4], [4, 4, 4], [2, 4, 3]])


def images_of(context) -> torch.Tensor | None:
    """(B, N, K, …), where there are any."""
    images = context.examples.get("images")
    return None if images is None else images.unflatten(1, context.rows.shape[1:3])


def masked(context, shots, spoilt=False) -> Context:
    mask, images = torch.arange(context.rows.shape[2]) < shots[..., None], images_of(context)
    if not spoilt:
        return context_of(context.rows, mask, images)
    images = None if images is None else torch.where(mask[..., None, None, None], images, 255 - images)
    return context_of(context.rows.where(mask[..., None], 1e3), mask, images)


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


# --- dropout


@pytest.mark.parametrize("name", TRAINED)
def test_dropout_is_of_training_alone(name, worlds):
    world = worlds["prototype", False]
    plain, method = (stirred(world.prepared(name, denoiser={"dropout": dropout})) for dropout in (0.0, 0.5))
    assert_close(draw(method, world.context), draw(plain, world.context), rtol=0, atol=0)
    if name != "ghn3":  # whose transformer is its own
        assert not torch.equal(draw(method.train(), world.context), draw(plain, world.context))


# --- the diffusion methods


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
        batch = method.draw(world.train.batch(torch.arange(40)), world.points, generator(0, "loss"))
        phi = dict(method.named_parameters())
        return sum(method.loss_of(phi, batch, visit=t).mean().item() for t in range(1, 5))

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
    centre, process, phi = world.start.centre(task.context), method.process, dict(method.named_parameters())
    recorded, new = (method.draw(task, given, generator(0, "batch")) for given in (points, None))
    states = method.to_x(method.chain(task.context, generator=generator(0, "noise")), centre).detach()
    for visit in range(1, 5):
        t, x_t = torch.full((6,), visit), states[4 - visit]
        i = process.target(t)
        epsilon = method.epsilon(dict(method.denoiser.named_parameters()), x_t, t, recorded)
        w_i = method.to_x(points, centre[:, None])[range(6), i]
        weights = 0.3 * process.loss(epsilon, x_t, t, i, w_i, "weights")
        w = method.to_w(process.endpoint(epsilon, x_t, t, i), centre)
        query = 0.7 * world.head.loss(w, task.query)
        assert_close(method.loss_of(phi, recorded, visit=visit), weights + query, rtol=1e-3, atol=1e-4)
        assert_close(method.loss_of(phi, new, visit=visit), query, rtol=1e-3, atol=1e-4)


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
    states = method.generate_chain(world.context, generator=generator(0, "noise"))
    assert states.shape == (5, len(world.context), method.space.dim(N_WAY))
    assert_close(states[-1], draw(method, world.context), rtol=0, atol=0)
    assert not torch.equal(states[0], states[-1])


# --- what each control is


def test_nearest_head_knows_the_training_tasks(world):
    method = world.prepared("nearest_head")
    tasks = torch.tensor([7, 0, 31])
    assert_close(draw(method, world.train.context(tasks)), world.points[tasks, 0], rtol=0, atol=0)


def test_mean_head_ignores_the_context(world):
    w = draw(world.prepared("mean_head"), world.context)
    assert_close(w, world.points[:, 0].mean(0).expand_as(w))


@pytest.mark.parametrize("name", ["mean_head", "nearest_head"])
def test_heads_of_training_tasks_of_more_classes_are_cut(name, world):
    method, two = world.build(name, n_way=2), torch.arange(4)
    val = ClassTasks(world.val.of, world.val.classes[:, :2], world.val.support[:, :2], world.val.query[:, :2])
    method.prepare(world.train, world.trajectories, val)
    heads = world.head.space.some_slots(world.points[:, 0], 2)
    seen = context_of(world.train.context(two).rows[:, :2])
    assert_close(draw(method, seen), heads[two] if name == "nearest_head" else heads.mean(0).expand(4, -1))


def test_prototype_is_the_nearest_class_mean(world):
    task = world.val.batch(torch.arange(len(world.val)))
    scores = world.head.score(draw(world.build("prototype"), task.context), task.query)
    assert_close(scores, nearest_mean_accuracy(task.context.means, task.query["inputs"], task.query["labels"]))


SEEING = [name for name in CONTROLS if name not in ("mean_head", "nearest_head")]


@pytest.mark.parametrize("name", SEEING)
def test_controls_that_see_the_context_beat_chance(name, world):
    task = world.val.batch(torch.arange(len(world.val)))
    mean, _ = mean_and_ci95(world.head.score(draw(world.prepared(name), task.context), task.query))
    assert mean > 2 / N_WAY


def test_trained_controls_take_the_best_knobs_on_meta_val(world):
    method = world.prepared("head_sgd")
    task = world.val.batch(torch.arange(len(world.val)))

    def score(steps: int, lr: float) -> float:
        method.steps.fill_(steps)
        method.lr.fill_(lr)
        return world.head.score(draw(method, task.context), task.query).mean().item()

    chosen = score(int(method.steps), method.lr.item())
    assert chosen == max(score(steps, lr) for steps, lr in product(STEPS, RATES))
    assert chosen > score(STEPS[0], RATES[0])
