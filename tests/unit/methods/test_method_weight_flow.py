"""Weight flow: its path, its integration and what its loss is least at, in closed form; then that it learns."""

import pytest
import torch
from torch.func import jacrev, vmap
from torch.testing import assert_close
from worlds import N_WAY, World, draw, stirred

from ltdi.methods.generators.weight_flow import euler, interpolate
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

B, P, D = 3, 4, 6


@pytest.fixture(scope="module")
def worlds():
    return {kind: World(kind) for kind in ("prototype", "shared", "fresh")}


@pytest.fixture
def path():
    return torch.randn(B, P, D, generator=generator(0, "path"))


def times(*values):
    return torch.tensor(values, dtype=torch.float32)


# --- path and integration


def test_a_point_of_the_path_by_hand():
    path = torch.tensor([[[0.0], [6.0], [3.0]]])
    values = [interpolate(path, times(s)).item() for s in (0, 0.25, 0.5, 0.75, 1)]
    assert_close(values, [0.0, 3.0, 6.0, 4.5, 3.0])


def test_the_path_goes_through_its_points(path):
    for j in range(P):
        assert_close(interpolate(path, torch.full((B,), j / (P - 1))), path[:, j], rtol=1e-5, atol=1e-5)


def test_the_path_has_the_velocity_of_its_segment(path):
    s = times(0.2, 0.5, 0.9)  # in segments 0, 1, 2
    slopes = vmap(jacrev(lambda row, s: interpolate(row[None], s[None])[0], 1))(path, s)
    j = torch.arange(B)
    assert_close(slopes, (P - 1) * (path[j, j + 1] - path[j, j]), rtol=1e-4, atol=1e-4)


def perfect(path, steps):
    """The mean velocity over the Euler step that starts at u."""
    return lambda x, u: interpolate(path, (u + 1) / steps) - interpolate(path, u / steps)


def test_one_step_is_exact_on_a_straight_path(path):
    a, b = path[:, 0], path[:, 1]
    straight = a[:, None] + torch.linspace(0, 1, P)[:, None] * (b - a)[:, None]
    *_, end = euler(perfect(straight, 1), a, 1)
    assert_close(end, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [P - 1, 2 * (P - 1)])
def test_segments_as_steps_visit_every_recorded_point(path, steps):
    """There the mean velocity of a step is the path's own derivative."""

    def derivative(x, u):
        return vmap(jacrev(lambda row, s: interpolate(row[None], s[None])[0], 1))(path, (u + 1e-3) / steps) / steps

    states = torch.stack(list(euler(derivative, path[:, 0], steps)), 1)
    assert_close(states[:, :: steps // (P - 1)], path, rtol=1e-4, atol=1e-4)
    assert_close(states, torch.stack(list(euler(perfect(path, steps), path[:, 0], steps)), 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_other_numbers_of_steps_stay_on_the_path(path, steps):
    for j, x in enumerate(euler(perfect(path, steps), path[:, 0], steps)):
        assert_close(x, interpolate(path, torch.full((B,), j / steps)), rtol=1e-4, atol=1e-4)


def test_euler_shows_the_velocity_every_state_and_its_time():
    seen = []
    list(euler(lambda x, u: seen.append((x.item(), u.item())) or 2 * x, torch.ones(1, 1), 3))
    assert seen == [(1, 0), (3, 1), (9, 2)]


# --- the loss


def batch_of(world, method, n=6):
    tasks = torch.arange(n)
    return world.train.batch(tasks), world.points[tasks]


@pytest.mark.parametrize("kind", ["prototype", "fresh"])
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_the_loss_is_least_at_the_paths_velocity(kind, steps, on_policy, worlds):
    """Zero there, as the network knows of each state which path it is on; anything else costs its distance at the
    step's end."""
    world = worlds[kind]
    method = world.prepared(
        "weight_flow", own={"steps": steps, "on_policy": on_policy}, meta={"weight_loss": 1.0, "query_loss": 0.0}
    )
    task, points = batch_of(world, method)
    centre = method.initialization.centre(task.context)
    path = method._path(method._begin(6, N_WAY, generator(0, "same")), points, centre)

    def exact(x, u, context, centre, off=0.0):
        end = u.floor() + 1
        assert (interpolate(path, u / steps) - x).abs().max() < 1e-4 or off  # every state that it sees is on the path
        return (interpolate(path, end / steps) - x) / (end - u)[:, None] + off

    method.velocity = exact
    assert method.loss(task, points, generator(0, "same")).abs().max() < 1e-8
    method.velocity = lambda *seen: exact(*seen, off=0.1)
    loss = method.loss(task, points, generator(0, "same"))
    if on_policy == 1:
        assert_close(loss, torch.full_like(loss, 0.01), rtol=1e-3, atol=1e-6)
    assert (loss > 0).all()


@pytest.mark.parametrize("on_policy", [0.0, 1.0])
def test_the_query_loss_is_that_of_the_head_at_the_end_of_the_step(on_policy, worlds):
    world = worlds["prototype"]
    method = world.prepared(
        "weight_flow", own={"steps": 1, "on_policy": on_policy}, meta={"weight_loss": 0.0, "query_loss": 2.0}
    )
    task, points = batch_of(world, method)
    trained = method.to_x(points[:, 0], method.initialization.centre(task.context))
    method.velocity = lambda x, u, *known: (trained - x) / (1 - u)[:, None]
    expected = method.weights_loss(points[:, 0], task, None)
    assert expected.min() > 0
    assert_close(method.loss(task, None, generator(0, "loss")), expected, rtol=1e-3, atol=1e-5)


def test_visited_is_the_share_of_the_visited_states_in_the_loss(worlds):
    """With one step the integration visits one state, whatever is drawn."""

    def loss(on_policy):
        method = stirred(worlds["prototype"].prepared("weight_flow", own={"steps": 1, "on_policy": on_policy}))
        return method.loss(*batch_of(worlds["prototype"], method), generator(0, "loss"))

    assert_close(loss(0.3), 0.7 * loss(0.0) + 0.3 * loss(1.0))
    assert not torch.allclose(loss(0.0), loss(1.0), rtol=0.01)


def test_the_visited_state_is_one_of_the_generations_and_given(worlds):
    """Every one of them in some step, without a gradient that runs back to it."""
    world = worlds["prototype"]
    method = stirred(world.prepared("weight_flow", own={"steps": 3, "on_policy": 1.0, "noise": 0.0}))
    task, points = batch_of(world, method)
    seen = []
    velocity = method.velocity
    method.velocity = lambda x, u, *known: seen.append(x) or velocity(x, u, *known)
    draw(method, task.context)
    states, visits = list(seen), set()
    for seed in range(20):
        seen.clear()
        method.loss(task, points, generator(seed, "loss"))
        assert_close(seen, states[: len(seen)])
        assert not any(x.requires_grad for x in seen)
        visits.add(len(seen))
    assert visits == {1, 2, 3}


@pytest.mark.parametrize("kind", ["prototype", "fresh"])
def test_the_path_begins_where_generation_does_and_ends_at_the_trained_head(kind, worlds):
    world = worlds[kind]
    method = world.prepared("weight_flow", own={"noise": 0.0})
    task, points = batch_of(world, method)
    centre, begin = method.initialization.centre(task.context), method._begin(6, N_WAY, generator(0, "begin"))
    path = method._path(begin, points, centre)
    assert_close(method.to_w(path[:, 1:], centre[:, None]), points.flip(1)[:, 1:], rtol=1e-4, atol=1e-5)
    if kind == "fresh":
        assert_close(method.to_w(path[:, 0], centre), points[:, -1])
        assert (begin.std(-1) > 0.1).all()
    else:
        assert path[:, 0].equal(begin)
        assert_close(method.to_w(begin, centre), centre)


def test_noise_has_its_deviation_and_is_one_draw_for_all_tasks(worlds):
    method = worlds["prototype"].prepared("weight_flow", own={"noise": 0.5})
    assert_close(method._begin(400, N_WAY, generator(0, "noise")).std(), torch.tensor(0.5), rtol=0.02, atol=0)
    context = worlds["prototype"].context
    x = method.to_x(draw(method, context), method.initialization.centre(context))
    assert_close(x, x[:1].expand_as(x), rtol=1e-3, atol=1e-4)
    assert x.std() > 0.4


# --- the method


@pytest.mark.parametrize("denoiser", ["transformer", "unet"])
def test_a_new_network_keeps_the_start(denoiser, worlds):
    for kind in ("prototype", "shared"):
        method = worlds[kind].prepared("weight_flow", own={"noise": 0.0}, denoiser={"name": denoiser})
        context = worlds[kind].context
        assert_close(draw(method, context), method.initialization.centre(context), rtol=0, atol=0)


def test_generation_depends_on_the_context_beyond_its_start(worlds):
    method = stirred(worlds["shared"].prepared("weight_flow"))
    w = draw(method, worlds["shared"].context)
    assert (w[0] - w[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "kind, on_policy, query_loss", [("shared", 0.0, 0.1), ("shared", 1.0, 0.1), ("fresh", 1.0, 0.0)]
)
def test_the_loss_falls(kind, on_policy, query_loss, worlds):
    world = worlds[kind]
    method = world.prepared(
        "weight_flow", own={"on_policy": on_policy, "noise": 0.0}, meta={"recorded_tasks": 40, "query_loss": query_loss}
    )
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=40, ema=0.9))]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_recorded_tasks_count_in_the_weight_loss_as_well_and_new_ones_in_the_query_loss_alone(worlds):
    world = worlds["prototype"]

    def losses(weight_loss, query_loss):
        method = stirred(
            world.prepared(
                "weight_flow", meta={"weight_loss": weight_loss, "query_loss": query_loss}, own={"on_policy": 1.0}
            )
        )
        task, points = batch_of(world, method)
        return tuple(method.loss(task, given, generator(0, "loss")).detach() for given in (points, None))

    (weight, nothing), (query, of_new) = losses(1.0, 0.0), losses(0.0, 1.0)
    assert (weight > 0).all() and not nothing.any()
    # what is visited does not hang on where the path leads
    assert_close(query, of_new)
    for one, other in zip(losses(0.5, 2.0), (0.5 * weight + 2 * query, 2 * of_new)):
        assert_close(one, other)
