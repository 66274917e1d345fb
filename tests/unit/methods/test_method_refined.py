"""More time a task: what one head and no step are, what a mean and steps do, and what is refused."""

import pytest
import torch
from torch.testing import assert_close
from worlds import World, draw, stirred

from ltdi.methods.common.test_time_refinement import TestTimeRefinement
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


@pytest.fixture(scope="module")
def world():
    return World("prototype")


@pytest.fixture(scope="module")
def method(world):
    return stirred(world.prepared("ltdi"))


def refined(method, *, heads: int = 1, adapt_steps: int = 0, adapt_lr: float = 1e-2) -> TestTimeRefinement:
    return TestTimeRefinement(method, heads=heads, adapt_steps=adapt_steps, adapt_lr=adapt_lr)


def examples_loss(world, w):
    return world.head.loss(w, world.context.examples)


@pytest.mark.parametrize("name", ["ltdi", "llo_vae", "meta_hypernetwork", "reptile", "meta_baseline"])
def test_one_head_and_no_step_are_the_method(name):
    world = World("prototype", with_images=True)
    method = stirred(world.prepared(name))
    same = refined(method)
    assert_close(draw(same, world.context), draw(method, world.context), rtol=0, atol=0)
    assert (same.from_images, same.adapts) == (method.from_images, method.adapts)
    assert same.space.shapes == method.space.shapes


def test_heads_are_averaged_over_noise_of_their_own(world, method):
    stream = generator(0, "noise")
    first, second = (method.generate(world.context, generator=stream) for _ in range(2))
    assert not torch.allclose(first, second)
    both = refined(method, heads=2).generate(world.context, generator=generator(0, "noise"))
    assert_close(both, (first + second) / 2)


def test_a_method_without_noise_has_one_head(world):
    method = stirred(world.prepared("ltdi", diffusion={"start_noise": 0.0}))
    assert_close(draw(refined(method, heads=3), world.context), draw(method, world.context))


def test_steps_lower_the_loss_on_the_examples_of_every_task(world, method):
    adapted = refined(method, adapt_steps=20)
    assert adapted.adapts
    assert (
        examples_loss(world, draw(adapted, world.context)) < examples_loss(world, draw(method, world.context))
    ).all()


def test_the_first_step_is_adams(world, method):
    """lr × the sign of the gradient, where that is not nearly zero."""
    w = draw(method, world.context).requires_grad_()
    (g,) = torch.autograd.grad(examples_loss(world, w).sum(), w)
    moved = draw(refined(method, adapt_steps=1, adapt_lr=0.25), world.context) - w.detach()
    counts = g.abs() > 1e-4
    assert counts.any()
    assert_close(moved[counts], -0.25 * g.sign()[counts], rtol=1e-2, atol=1e-4)


def test_steps_on_more_than_a_head_are_refused():
    world = World("prototype", with_images=True)
    with pytest.raises(InputError, match="generate.adapt_steps = 5.*Reptile"):
        refined(world.prepared("reptile"), adapt_steps=5)


def test_steps_do_not_see_what_is_not_there(world, method):
    mask = torch.arange(2) < torch.tensor([[1, 2, 1]] * 5)[..., None]
    rows = world.context.rows
    shown, spoilt = (context_of(rows.where(mask[..., None], value), mask) for value in (0.0, 1e3))
    adapted = refined(method, adapt_steps=5)
    assert_close(draw(adapted, spoilt), draw(adapted, shown))
