"""The denoisers: symmetries, a start from nothing, and a condition that is heard."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.diffusion.denoiser import DENOISERS
from ltdi.heads import Head
from ltdi.seeding import generator

B, N, K, F = 3, 5, 2, 6
ORDER = torch.tensor([3, 0, 4, 2, 1])


def denoiser_of(name, head=None, *, started=True, **sizes):
    """A denoiser; ``started``: with its zero-initialised last layers perturbed, as after some training."""
    torch.manual_seed(0)
    head = head or Head(F, 6, N)
    knobs = {"channels": 1, "width": 16, "depth": 2, "heads": 2, "neurons_a_token": 2, "condition": "mean"} | sizes
    denoiser = DENOISERS[name](head.space, "output", head.n_features, **knobs)
    if started:
        with torch.no_grad():
            for out in denoiser.tokens.out:
                out.weight.normal_()
                out.bias.normal_()
    return denoiser


def random(*shape):
    return torch.randn(*shape, generator=generator(0, "denoiser", shape))


def inputs(head=None, channels=1):
    head = head or Head(F, 6, N)
    return random(B, channels, head.space.dim), torch.tensor([1, 7, 20]), random(B, head.n_way, K, head.n_features)


def permuted(space, w, order=ORDER):
    tokens = space.tokens(w)
    return space.from_tokens(tokens | {"output": tokens["output"].index_select(-2, order)})


@pytest.fixture(params=DENOISERS)
def name(request):
    return request.param


@pytest.fixture(params=["mean", "attention"])
def condition(request):
    return request.param


# --- symmetries


@pytest.mark.parametrize("neurons_a_token", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_transformer_permutes_with_the_classes(condition, channels, neurons_a_token):
    space = Head(F, 6, N).space
    denoiser = denoiser_of("transformer", channels=channels, condition=condition, neurons_a_token=neurons_a_token)
    x, t, support = inputs(channels=channels)
    y = denoiser(x, t, support)
    assert_close(denoiser(permuted(space, x), t, support[:, ORDER]), permuted(space, y), rtol=1e-4, atol=1e-4)
    # the symmetry is of both together: neither alone changes nothing
    assert not denoiser(x, t, support[:, ORDER]).allclose(permuted(space, y), atol=1e-2)
    assert not denoiser(x, t, support[:, ORDER]).allclose(y, atol=1e-2)


def test_the_order_of_a_classs_images_does_not_matter(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support = inputs()
    assert_close(denoiser(x, t, support.flip(2)), denoiser(x, t, support), rtol=1e-4, atol=1e-4)


def test_seeing_every_image_twice_does_not_matter(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support = inputs()
    assert_close(denoiser(x, t, support.repeat(1, 1, 2, 1)), denoiser(x, t, support), rtol=1e-4, atol=1e-4)


def test_attention_sees_more_of_the_images_than_their_mean(name):
    x, t, support = inputs()
    only_means = support.mean(2, keepdim=True).expand_as(support)
    assert_close(denoiser_of(name)(x, t, only_means), denoiser_of(name)(x, t, support), rtol=1e-4, atol=1e-4)
    attention = denoiser_of(name, condition="attention")
    assert not attention(x, t, only_means).allclose(attention(x, t, support), atol=1e-3)


def test_it_hears_which_label_has_which_class(name, condition):
    """A condition pooled over the classes would not change with their order."""
    denoiser = denoiser_of(name, condition=condition)
    x, t, support = inputs()
    y, noise = denoiser(x, t, support), denoiser(x, t, support.flip(2)) - denoiser(x, t, support)
    assert (denoiser(x, t, support[:, ORDER]) - y).abs().max() > 100 * noise.abs().max() + 1e-3


def test_a_task_does_not_depend_on_its_neighbours(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support = inputs()
    alone = torch.cat([denoiser(x[b : b + 1], t[b : b + 1], support[b : b + 1]) for b in range(B)])
    assert_close(denoiser(x, t, support), alone, rtol=1e-4, atol=1e-4)


# --- the start


def test_it_starts_as_nothing_and_can_leave_it(name, condition):
    denoiser = denoiser_of(name, started=False, condition=condition)
    y = denoiser(*inputs())
    assert y.shape == (B, Head(F, 6, N).space.dim)
    assert not y.any()
    (y - 1).square().sum().backward()
    assert all(out.weight.grad.any() for out in denoiser.tokens.out)


def test_every_parameter_is_trained(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    denoiser(*inputs()).square().sum().backward()
    idle = [name for name, parameter in denoiser.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


# --- what it hears


def test_every_number_feels_state_time_and_condition(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support = inputs()
    y = denoiser(x, t, support)
    for other in (denoiser(x + 1, t, support), denoiser(x, t + 5, support), denoiser(x, t, support + torch.eye(N, F)[:, None])):
        assert ((other - y).abs() > 0).float().mean() > 0.99


def test_the_gradient_reaches_every_image_of_the_condition(name, condition):
    x, t, support = inputs()
    support.requires_grad_()
    denoiser_of(name, condition=condition)(x, t, support).square().sum().backward()
    assert (support.grad.abs() > 0).all()


def test_every_channel_is_read(name):
    x, t, support = inputs(channels=2)
    x.requires_grad_()
    denoiser_of(name, channels=2)(x, t, support).square().sum().backward()
    assert (x.grad.abs() > 0).float().mean() > 0.99


def test_tokens_carry_their_own_numbers():
    """Read through an identity and written through one, the vector comes back."""
    head = Head(3, 4, 2)
    denoiser = denoiser_of("transformer", head, width=8, neurons_a_token=2, started=False)
    tokens = denoiser.tokens
    tokens.norm = torch.nn.Identity()
    with torch.no_grad():
        for layer in range(len(tokens.into)):
            tokens.place[layer].zero_()
            tokens.into[layer].bias.zero_()
            tokens.into[layer].weight.copy_(torch.eye(8, tokens.into[layer].in_features))
            tokens.out[layer].weight.copy_(torch.eye(tokens.out[layer].out_features, 8))
    x = random(B, 1, head.space.dim)
    assert {layer: tuple(part.shape) for layer, part in tokens.read(x).items()} == {"hidden": (B, 2, 8), "output": (B, 2, 8)}
    assert_close(tokens.write(tokens.read(x)), x[:, 0])


@pytest.mark.parametrize("hidden", [1, 3, 8, 11])
@pytest.mark.parametrize("n_way", [2, 5])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_unet_takes_any_number_of_tokens(hidden, n_way, depth):
    head = Head(4, hidden, n_way)
    x, t, support = inputs(head)
    y = denoiser_of("unet", head, depth=depth, width=8, neurons_a_token=1)(x, t, support)
    assert y.shape == (B, head.space.dim) and y.isfinite().all()
    assert y.std(0).min() > 0


@pytest.mark.parametrize("neurons_a_token", [1, 4, 5, 100])
def test_neurons_that_do_not_divide_are_grouped_by_the_largest_number_that_does(name, neurons_a_token):
    denoiser = denoiser_of(name, Head(F, 6, N), neurons_a_token=neurons_a_token)
    sizes = {1: 6, 4: 2, 5: 2, 100: 1}
    assert denoiser.tokens.read(inputs()[0])["hidden"].shape[1] == sizes[neurons_a_token]
    assert denoiser.tokens.read(inputs()[0])["output"].shape[1] == N
    assert denoiser(*inputs()).shape == (B, Head(F, 6, N).space.dim)
