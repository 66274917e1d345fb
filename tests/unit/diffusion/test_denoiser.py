"""The denoisers: symmetries, a start from nothing, and a condition that is heard."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ltdi.diffusion.denoiser import DENOISERS, WeightTokenizer
from ltdi.learners import TwoLayerHead
from ltdi.learners.weight_space import WeightSpace
from ltdi.utils.nn import Standardise
from ltdi.utils.seeding import generator

B, N, K, F = 3, 5, 2, 6
ORDER = torch.tensor([3, 0, 4, 2, 1])


def denoiser_of(name, head=None, *, n_way=N, started=True, **sizes):
    """A denoiser; ``started``: with its zero-initialised last layers perturbed, as after some training."""
    torch.manual_seed(0)
    head = head or TwoLayerHead(F, 6)
    hparams = {
        "channels": 1,
        "steps": 30,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "neurons_a_token": 2,
        "condition": "mean",
        "dropout": 0.0,
    } | sizes
    denoiser = DENOISERS[name](head.space, head.n_features, n_way=n_way, **hparams)
    if started:
        with torch.no_grad():
            for out in denoiser.tokenizer.out:
                out.weight.normal_()
                out.bias.normal_()
    return denoiser


def random(*shape):
    return torch.randn(*shape, generator=generator(0, "denoiser", shape))


def inputs(head=None, channels=1, n_way=N):
    """x, t, support features and which are there: all."""
    head = head or TwoLayerHead(F, 6)
    support = random(B, n_way, K, head.n_features)
    return random(B, channels, head.space.dim(n_way)), torch.tensor([1, 7, 20]), support, torch.ones(B, n_way, K)


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
    space = TwoLayerHead(F, 6).space
    denoiser = denoiser_of("transformer", channels=channels, condition=condition, neurons_a_token=neurons_a_token)
    x, t, support, there = inputs(channels=channels)
    y = denoiser(x, t, support, there)
    assert_close(denoiser(permuted(space, x), t, support[:, ORDER], there), permuted(space, y), rtol=1e-4, atol=1e-4)
    # the symmetry is of both together: neither alone changes nothing
    assert not denoiser(x, t, support[:, ORDER], there).allclose(permuted(space, y), atol=1e-2)
    assert not denoiser(x, t, support[:, ORDER], there).allclose(y, atol=1e-2)


def test_the_order_of_a_classs_images_does_not_matter(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support, there = inputs()
    assert_close(denoiser(x, t, support.flip(2), there), denoiser(x, t, support, there), rtol=1e-4, atol=1e-4)


def test_seeing_every_image_twice_does_not_matter(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support, there = inputs()
    twice = support.repeat(1, 1, 2, 1), there.repeat(1, 1, 2)
    assert_close(denoiser(x, t, *twice), denoiser(x, t, support, there), rtol=1e-4, atol=1e-4)


def test_what_is_not_there_is_not_heard(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support, there = inputs()
    there[0, 1, 1] = there[2, :, 1] = 0
    spoilt = support.where(there[..., None] > 0, 1e3)
    assert_close(denoiser(x, t, spoilt, there), denoiser(x, t, support, there), rtol=1e-4, atol=1e-4)
    assert_close(
        denoiser(x, t, spoilt, there)[2:],
        denoiser(x[2:], t[2:], support[2:, :, :1], there[2:, :, :1]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_dropout_is_of_the_class_means_and_in_the_blocks(condition):
    denoiser = denoiser_of("transformer", condition=condition, dropout=0.5)
    *_, support, there = inputs()
    assert not denoiser.condition(support, there).equal(denoiser.condition(support, there))
    h = random(B, 4, 16)
    assert not denoiser.blocks[0](h).equal(denoiser.blocks[0](h))
    denoiser.eval()
    assert denoiser(*inputs()).equal(denoiser_of("transformer", condition=condition)(*inputs()))


@pytest.mark.parametrize("n_way", [2, 9])
def test_the_transformer_serves_any_number_of_classes(condition, n_way):
    """It is the same network, and has no parameter that a number of classes is the size of."""
    given, built = (
        denoiser_of("transformer", condition=condition),
        denoiser_of("transformer", n_way=n_way, condition=condition),
    )
    built.load_state_dict(given.state_dict())
    y = given(*inputs(n_way=n_way))
    assert y.equal(built(*inputs(n_way=n_way))) and y.shape == (B, TwoLayerHead(F, 6).space.dim(n_way))
    assert y.std(0).min() > 0


def test_the_unet_is_for_one_number_of_classes():
    with pytest.raises(RuntimeError):
        denoiser_of("unet")(*inputs(n_way=N + 1))


def test_attention_sees_more_of_the_images_than_their_mean(name):
    x, t, support, there = inputs()
    only_means = support.mean(2, keepdim=True).expand_as(support)
    assert_close(
        denoiser_of(name)(x, t, only_means, there), denoiser_of(name)(x, t, support, there), rtol=1e-4, atol=1e-4
    )
    attention = denoiser_of(name, condition="attention")
    assert not attention(x, t, only_means, there).allclose(attention(x, t, support, there), atol=1e-3)


def test_it_hears_which_label_has_which_class(name, condition):
    """A condition pooled over the classes would not change with their order."""
    denoiser = denoiser_of(name, condition=condition)
    x, t, support, there = inputs()
    y, noise = denoiser(x, t, support, there), denoiser(x, t, support.flip(2), there) - denoiser(x, t, support, there)
    assert (denoiser(x, t, support[:, ORDER], there) - y).abs().max() > 100 * noise.abs().max() + 1e-3


def test_a_task_does_not_depend_on_its_neighbours(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support, there = inputs()
    alone = torch.cat([denoiser(x[b : b + 1], t[b : b + 1], support[b : b + 1], there[b : b + 1]) for b in range(B)])
    assert_close(denoiser(x, t, support, there), alone, rtol=1e-4, atol=1e-4)


# --- a space without class slots


def slotless():
    return SimpleNamespace(space=WeightSpace({"a.weight": (4, 3), "b.weight": (2, 5)}), n_features=F)


def test_without_class_slots_every_number_hears_the_only_slot(name, condition):
    """Every row of it, and their order changes nothing."""
    head = slotless()
    denoiser, (x, t, rows, there) = denoiser_of(name, head, n_way=1, condition=condition), inputs(head, n_way=1)
    y = denoiser(x, t, rows, there)
    assert y.shape == (B, 22)
    assert ((denoiser(x, t, rows + 1, there) - y).abs() > 0).float().mean() > 0.99
    assert_close(denoiser(x, t, rows.flip(2), there), y, rtol=1e-4, atol=1e-4)
    rows.requires_grad_()
    denoiser(x, t, rows, there).square().sum().backward()
    assert (rows.grad.abs() > 0).all()


def test_without_class_slots_the_order_of_the_slots_of_a_context_changes_nothing(condition):
    head = slotless()
    denoiser, (x, t, rows, there) = denoiser_of("transformer", head, condition=condition), inputs(head)
    assert_close(denoiser(x, t, rows[:, ORDER], there), denoiser(x, t, rows, there), rtol=1e-4, atol=1e-4)


# --- the start


def test_it_starts_as_nothing_and_can_leave_it(name, condition):
    denoiser = denoiser_of(name, started=False, condition=condition)
    y = denoiser(*inputs())
    assert y.shape == (B, TwoLayerHead(F, 6).space.dim(N))
    assert not y.any()
    (y - 1).square().sum().backward()
    assert all(out.weight.grad.any() for out in denoiser.tokenizer.out)


def test_every_parameter_is_trained(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    denoiser(*inputs()).square().sum().backward()
    idle = [
        name for name, parameter in denoiser.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


# --- what it hears


def test_every_number_feels_state_time_and_condition(name, condition):
    denoiser = denoiser_of(name, condition=condition)
    x, t, support, there = inputs()
    y = denoiser(x, t, support, there)
    for other in (
        denoiser(x + 1, t, support, there),
        denoiser(x, t + 5, support, there),
        denoiser(x, t, support + torch.eye(N, F)[:, None], there),
    ):
        assert ((other - y).abs() > 0).float().mean() > 0.99


def test_the_gradient_reaches_every_image_of_the_condition(name, condition):
    x, t, support, there = inputs()
    support.requires_grad_()
    denoiser_of(name, condition=condition)(x, t, support, there).square().sum().backward()
    assert (support.grad.abs() > 0).all()


def test_every_channel_is_read(name):
    x, t, support, there = inputs(channels=2)
    x.requires_grad_()
    denoiser_of(name, channels=2)(x, t, support, there).square().sum().backward()
    assert (x.grad.abs() > 0).float().mean() > 0.99


def test_tokens_carry_their_own_numbers():
    """Read through an identity and written through one, the vector comes back."""
    head = TwoLayerHead(3, 4)
    denoiser = denoiser_of("transformer", head, width=8, neurons_a_token=2, started=False)
    tokens = denoiser.tokenizer
    tokens.norm = torch.nn.Identity()
    with torch.no_grad():
        for layer in range(len(tokens.into)):
            tokens.place[layer].zero_()
            tokens.into[layer].bias.zero_()
            tokens.into[layer].weight.copy_(torch.eye(8, tokens.into[layer].in_features))
            tokens.out[layer].weight.copy_(torch.eye(tokens.out[layer].out_features, 8))
    x = random(B, 1, head.space.dim(2))
    assert {layer: tuple(part.shape) for layer, part in tokens.tokenize(x).items()} == {
        "hidden": (B, 2, 8),
        "output": (B, 2, 8),
    }
    assert_close(tokens.detokenize(tokens.tokenize(x)), x[:, 0])


@pytest.mark.parametrize("hidden", [1, 3, 8, 11])
@pytest.mark.parametrize("n_way", [2, 5])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_unet_takes_any_number_of_tokens(hidden, n_way, depth):
    head = TwoLayerHead(4, hidden)
    x, t, support, there = inputs(head, n_way=n_way)
    y = denoiser_of("unet", head, n_way=n_way, depth=depth, width=8, neurons_a_token=1)(x, t, support, there)
    assert y.shape == (B, head.space.dim(n_way)) and y.isfinite().all()
    assert y.std(0).min() > 0


@pytest.mark.parametrize("neurons_a_token", [1, 4, 5, 100])
def test_neurons_that_do_not_divide_are_grouped_by_the_largest_number_that_does(name, neurons_a_token):
    denoiser = denoiser_of(name, neurons_a_token=neurons_a_token)
    sizes = {1: 6, 4: 2, 5: 2, 100: 1}
    assert denoiser.tokenizer.tokenize(inputs()[0])["hidden"].shape[1] == sizes[neurons_a_token]
    assert denoiser.tokenizer.tokenize(inputs()[0])["output"].shape[1] == N
    assert denoiser(*inputs()).shape == (B, TwoLayerHead(F, 6).space.dim(N))


def test_layers_of_one_kind_share_all_but_their_place():
    shapes = {f"{depth}.query.A": (4, 6) for depth in range(12)} | {"head.weight": (None, 5)}
    kinds = {f"{depth}.query": "query" for depth in range(12)}
    shared, apart = (WeightTokenizer(WeightSpace(shapes, each), 1, 16, 2) for each in (kinds, {}))
    assert len(shared.into) == len(shared.out) == 2 and len(apart.into) == 13
    assert len(shared.place) == len(apart.place) == 13
    with torch.no_grad():
        for place in shared.place:
            place.zero_()
        for out in shared.out:
            nn.init.normal_(out.weight)
    x = torch.randn(3, 1, 24, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 12)
    tokens = shared.tokenize(torch.cat([x, x[..., :10]], -1))
    assert all(tokens[layer].equal(tokens["0.query"]) for layer in kinds)
    written = shared.detokenize(tokens)[:, :-10].unflatten(1, (12, 24))
    assert written.equal(written[:, :1].expand_as(written))


# --- what is added to the network's output


def test_the_condition_is_standardised_by_its_state(name):
    """Features far from zero are the same condition as standardised ones, and the state dict knows by how much."""
    denoiser = denoiser_of(name)
    x, t, support, present = inputs()
    plain = denoiser(x, t, support, present)
    mean, deviation = torch.full((F,), 7.0), torch.full((F,), 3.0)
    denoiser.condition.standardise.fit(mean, deviation)
    assert_close(denoiser(x, t, 3 * support + 7, present), plain, rtol=1e-4, atol=1e-4)
    again = denoiser_of(name)
    again.load_state_dict(denoiser.state_dict())
    assert_close(again(x, t, 3 * support + 7, present), plain, rtol=1e-4, atol=1e-4)


def test_a_number_that_never_varies_is_left_at_its_size():
    standardise = Standardise(2)
    standardise.fit(torch.tensor([5.0, 1.0]), torch.tensor([0.0, 2.0]))
    assert_close(standardise(torch.tensor([6.0, 5.0])), torch.tensor([1.0, 2.0]))


def test_a_skip_hands_the_noisy_input_on_layer_by_layer(name):
    denoiser = denoiser_of(name, skip=True, started=False)
    x, t, support, present = inputs()
    assert denoiser(x, t, support, present).eq(0).all()
    with torch.no_grad():
        denoiser.skip.factor[7] = torch.tensor([2.0, 0.5])
    output = TwoLayerHead(F, 6).space.tokens(denoiser(x, t, support, present))
    given = TwoLayerHead(F, 6).space.tokens(x[:, 0])
    assert_close(output["hidden"][1], 2 * given["hidden"][1])
    assert_close(output["output"][1], 0.5 * given["output"][1])
    assert output["hidden"][0].eq(0).all()


def test_a_direct_map_knows_a_class_and_the_mean_of_the_others(name):
    denoiser = denoiser_of(name, linear_map=True, started=False)
    x, t, support, present = inputs()
    assert denoiser(x, t, support, present).eq(0).all()
    with torch.no_grad():
        denoiser.linear_map.map.weight.normal_()
    space = TwoLayerHead(F, 6).space
    output = space.tokens(denoiser(x, t, support, present))
    z = support.mean(2)
    others = torch.stack([z[:, [m for m in range(N) if m != n]].mean(1) for n in range(N)], 1)
    assert_close(output["output"], torch.cat([z, others], -1) @ denoiser.linear_map.map.weight.mT, rtol=1e-4, atol=1e-5)
    assert output["hidden"].eq(0).all()
