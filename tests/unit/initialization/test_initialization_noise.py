"""A chain whose noise is the task's own initialization, and how that is drawn."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from worlds import N_WAY, World

from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

# --- the task's own draw as the noise


def test_a_paired_chain_starts_at_the_recorded_draw():
    """ε = w_n in the chain's coordinates: with it the state at T of a trajectory is the draw that it began at."""
    world = World("fresh")
    method = world.prepared("ltdi", diffusion={"noise": "initialization"})
    tasks = torch.arange(5)
    drawn = method.draw_inputs(world.train.batch(tasks), world.trajectories.points(tasks), generator(0, "pair"))
    assert_close(method.to_w(drawn["noise"], drawn["centre"]), world.points[:5, -1], rtol=1e-4, atol=1e-5)
    assert drawn["x_T"].equal(drawn["noise"])


def test_a_paired_generation_starts_at_a_new_draw_of_the_same_law():
    world = World("fresh")
    method = world.prepared("lvdi", diffusion={"noise": "initialization"})
    states = method.generate_sampling_trajectory(world.context, generator=generator(3, "noise"))
    first = world.initialization.initial(1, N_WAY, generator(3, "noise"))
    assert_close(method.to_w(method.to_x(first, 0 * first), 0 * first), first, rtol=1e-4, atol=1e-5)
    assert_close(states[0, 0], first[0], rtol=1e-4, atol=1e-5)


def test_one_draw_for_all_tasks_is_no_noise_of_their_own():
    with pytest.raises(InputError, match=r"trajectories\.initialization = shared"):
        World("shared").build("ltdi", diffusion={"noise": "initialization"})


def test_the_output_layer_is_drawn_at_its_scale():
    world = World("fresh")
    small = replace(world.initialization, output_scale=0.01)
    (a, b) = (
        world.head.space.tokens(each.initial(4, N_WAY, generator(0, "scale"))) for each in (world.initialization, small)
    )
    assert_close(b["output"], 0.01 * a["output"])
    assert_close(b["hidden"], a["hidden"])
    assert small.values() == {"output_scale": 0.01}
