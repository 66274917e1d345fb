"""WeightSpace: the vector, the tensors and the tokens are the same numbers."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ltdi.learners.weight_space import WeightSpace
from ltdi.utils.seeding import generator

HEAD = {"hidden.weight": (4, 3), "hidden.bias": (4,), "output.weight": (None, 4), "output.bias": (None,)}
SPACES = {
    "head": HEAD,
    "fixed head": {name: tuple(size or 2 for size in shape) for name, shape in HEAD.items()},
    "slots between": {"a.weight": (2, 3), "slots.weight": (None, 5), "b.bias": (4,)},
    "slots alone": {"centroid.weight": (None, 6)},
    "convolution": {
        "body.conv.weight": (6, 2, 3, 3),
        "body.conv.bias": (6,),
        "body.norm.weight": (6,),
        "body.norm.bias": (6,),
    },
    "no bias": {"output.weight": (5, 7)},
    "layers out of order": {"a.weight": (2, 3), "b.weight": (3, 2), "a.bias": (2,), "b.bias": (3,)},
    "low rank": {"output.a": (5, 2), "output.b": (5, 2)},
}


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def space(request):
    return WeightSpace(request.param)


def shapes_of(space, n_way):
    return {name: tuple(n_way if size is None else size for size in shape) for name, shape in space.shapes.items()}


def random(*shape):
    return torch.randn(*shape, generator=generator(0, "weights", shape))


@pytest.mark.parametrize("n_way", [1, 2, 5, 40])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_round_trips(space, batch, n_way):
    w = random(*batch, space.dim(n_way))
    assert space.flatten(space.unflatten(w)).equal(w)
    assert space.from_tokens(space.tokens(w)).equal(w)
    tensors = {name: random(*batch, *shape) for name, shape in shapes_of(space, n_way).items()}
    assert_close(space.unflatten(space.flatten(tensors)), tensors, rtol=0, atol=0)


@pytest.mark.parametrize("n_way", [1, 3])
def test_every_number_stands_once(space, n_way):
    w = torch.arange(space.dim(n_way))
    for parts in (space.unflatten(w), space.tokens(w)):
        assert torch.cat([part.flatten() for part in parts.values()]).sort().values.equal(w)
    assert space.dim(n_way) == sum(torch.Size(shape).numel() for shape in shapes_of(space, n_way).values())


@pytest.mark.parametrize("n_way", [1, 3])
def test_shapes(space, n_way):
    w = random(2, 3, space.dim(n_way))
    shapes = {name: (2, 3, *shape) for name, shape in shapes_of(space, n_way).items()}
    assert {name: tuple(value.shape) for name, value in space.unflatten(w).items()} == shapes
    tokens = {
        layer: (2, 3, n_way if neurons is None else neurons, space.numbers[layer])
        for layer, neurons in space.neurons.items()
    }
    assert {layer: tuple(value.shape) for layer, value in space.tokens(w).items()} == tokens
    assert space.sizes(space.dim(n_way)) == [shape[2:] for shape in tokens.values()]


def test_class_slots_are_one_layer_and_add_their_numbers_to_the_vector():
    slots = {name: WeightSpace(shapes).slot_layer for name, shapes in SPACES.items()}
    assert slots == {name: None for name in SPACES} | {
        "head": "output",
        "slots between": "slots",
        "slots alone": "centroid",
    }
    space = WeightSpace(HEAD)
    assert [space.dim(n_way) for n_way in (0, 1, 2, 9)] == [16, 21, 26, 61]
    assert WeightSpace(SPACES["fixed head"]).dim() == WeightSpace(SPACES["fixed head"]).dim(9) == 26


def test_a_slot_added_leaves_the_other_numbers_where_they_were():
    space = WeightSpace(HEAD)
    three, two = space.unflatten(torch.arange(31)), space.unflatten(torch.arange(26))
    assert three["hidden.weight"].equal(two["hidden.weight"]) and three["hidden.bias"].equal(two["hidden.bias"])
    assert three["output.weight"][:2].equal(two["output.weight"]) and three["output.bias"][:2].equal(two["output.bias"])


@pytest.mark.parametrize(
    "name, wrong", [("head", 27), ("head", 15), ("fixed head", 31), ("slots between", 14), ("slots alone", 7)]
)
def test_a_vector_that_no_number_of_classes_makes_is_refused(name, wrong):
    space = WeightSpace(SPACES[name])
    for refused in (
        space.sizes,
        lambda dim: space.unflatten(torch.zeros(2, dim)),
        lambda dim: space.spread(torch.ones(len(space.layers)), dim),
    ):
        with pytest.raises(ValueError, match=f"{wrong} numbers"):
            refused(wrong)


def test_a_token_is_a_neurons_weights_and_then_its_bias():
    space = WeightSpace(SPACES["convolution"])
    w = random(2, space.dim())
    tensors, tokens = space.unflatten(w), space.tokens(w)
    assert list(tokens) == ["body.conv", "body.norm"]
    for neuron in range(6):
        weight, bias = tensors["body.conv.weight"][:, neuron], tensors["body.conv.bias"][:, neuron]
        assert tokens["body.conv"][:, neuron].equal(torch.cat([weight.flatten(1), bias[:, None]], dim=1))


def test_a_networks_own_tensors_give_its_vector():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5))
    space = WeightSpace({name: value.shape for name, value in network.state_dict().items()})
    w = space.flatten(network.state_dict())
    other = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5))
    other.load_state_dict(space.unflatten(w))
    assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_tokens_share_the_memory_of_the_vector(space):
    w = random(2, space.dim(3))
    for tokens in space.tokens(w).values():
        assert tokens.untyped_storage().data_ptr() == w.untyped_storage().data_ptr()
        tokens.zero_()
    assert not w.any()


@pytest.mark.parametrize("n_way", [1, 3])
def test_a_number_a_layer_is_spread_over_its_layer(space, n_way):
    values = random(2, 3, len(space.layers))
    for j, tokens in enumerate(space.tokens(space.spread(values, space.dim(n_way))).values()):
        assert_close(tokens, values[..., j, None, None].expand_as(tokens), rtol=0, atol=0)


def test_a_layer_of_unequal_neurons_is_refused():
    with pytest.raises(ValueError, match=r"'hidden'.*\[3, 4\]"):
        WeightSpace({"hidden.weight": (4, 3), "hidden.bias": (3,)})


def test_class_slots_beside_fixed_neurons_or_in_two_layers_are_refused():
    with pytest.raises(ValueError, match="'output'.*agree"):
        WeightSpace({"output.weight": (None, 3), "output.bias": (3,)})
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*one may"):
        WeightSpace({"a.weight": (None, 3), "b.weight": (None, 3)})


def test_some_slots_are_the_first_and_leave_the_rest():
    space = WeightSpace(HEAD)
    w = random(2, space.dim(5))
    tensors, some = space.unflatten(w), space.unflatten(space.some_slots(w, 2))
    expected = {name: value[:, :2] if name.startswith("output") else value for name, value in tensors.items()}
    assert_close(some, expected, rtol=0, atol=0)
    assert space.some_slots(w, 5).equal(w)


def test_layers_of_one_kind_have_one_shape():
    shapes = {"0.query.A": (2, 6), "1.query.A": (2, 6), "head.weight": (None, 3)}
    space = WeightSpace(shapes, {"0.query": "query", "1.query": "query"})
    assert space.kinds == {"0.query": "query", "1.query": "query", "head": "head"}
    assert WeightSpace(shapes).kinds == {layer: layer for layer in space.layers}
    with pytest.raises(ValueError, match="'0.query' and 'head' are of one kind 'query', and of other sizes"):
        WeightSpace(shapes, {"0.query": "query", "1.query": "query", "head": "query"})
