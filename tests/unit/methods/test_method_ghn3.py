"""GHN-3: its graph against matrices by hand, its attention and decoder in closed form, what the condition adds; then
that it learns."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds import HIDDEN, N_WAY, F, World, draw, stirred

from ltdi.methods.generators.ghn3 import NODE_OPERATIONS, head_distances, head_edges, shortest_paths, tile
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.nn import Attention, TransformerBlock
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

V = len(NODE_OPERATIONS) + N_WAY
GRAPH = head_distances(N_WAY)


@pytest.fixture(scope="module")
def worlds():
    return {kind: World(kind) for kind in ("prototype", "shared")}


@pytest.fixture
def method(worlds):
    return stirred(worlds["shared"].prepared("ghn3"))


# --- the graph


def made(method, context):
    return method.weights(context, method.initialization.centre(context))


def test_shortest_paths_by_hand():
    """A diamond with a short cut 0 → 1 → 3, 0 → 2 → 4 → 3, and a node that leads nowhere."""
    edges = [(0, 1), (1, 3), (0, 2), (2, 4), (4, 3), (3, 5)]
    expected = [
        [0, 1, 1, 2, 2, 3],
        [6, 0, 6, 1, 6, 2],
        [6, 6, 0, 2, 1, 3],
        [6, 6, 6, 0, 6, 1],
        [6, 6, 6, 1, 0, 2],
        [6, 6, 6, 6, 6, 0],
    ]
    assert shortest_paths(6, edges).tolist() == expected


def test_the_graph_of_a_head_of_two_classes():
    """input, hidden weight and bias, relu, output weight and bias, output; two classes, which lead to the input."""
    no = 9
    expected = [
        [0, 1, 2, 3, 4, 5, 6, no, no],
        [no, 0, 1, 2, 3, 4, 5, no, no],
        [no, no, 0, 1, 2, 3, 4, no, no],
        [no, no, no, 0, 1, 2, 3, no, no],
        [no, no, no, no, 0, 1, 2, no, no],
        [no, no, no, no, no, 0, 1, no, no],
        [no, no, no, no, no, no, 0, no, no],
        [1, 2, 3, 4, 5, 6, 7, 0, no],
        [1, 2, 3, 4, 5, 6, 7, no, 0],
    ]
    assert shortest_paths(9, head_edges(2)).tolist() == expected


def test_nodes_differ_but_for_the_classes(method):
    distances = torch.cdist(method.embed_nodes(GRAPH), method.embed_nodes(GRAPH))
    same = distances < 1e-6
    expected = torch.eye(V, dtype=torch.bool)
    expected[len(NODE_OPERATIONS) :, len(NODE_OPERATIONS) :] = True
    assert torch.equal(same, expected)


def test_every_property_of_a_node_is_embedded(method):
    """By itself: with the other embeddings zero, the nodes that share the property are alike, and no others."""
    shapes = [(1, 1), (HIDDEN, F), (HIDDEN, 1), (1, 1), (N_WAY, HIDDEN), (N_WAY, 1), (1, 1)] + [(1, 1)] * N_WAY
    properties = {
        "operation": ["in", "linear", "bias", "relu", "linear", "bias", "out"] + ["class"] * N_WAY,
        "size": shapes,
        "in": [N_WAY, *[1] * 6, *[0] * N_WAY],
        "out": [*[1] * 6, 0, *[1] * N_WAY],
        "from_input": [*range(7), *["none"] * N_WAY],
    }
    for name, values in properties.items():
        alone = stirred_copy(method, keep=name, names=properties)
        same = torch.cdist(alone, alone) < 1e-6
        assert torch.equal(same, torch.tensor([[a == b for b in values] for a in values])), name


def stirred_copy(method, keep, names):
    kept = {name: value.clone() for name, value in method.state_dict().items()}
    for name in names:
        if name != keep:
            for parameter in getattr(method, f"embed_{name}").parameters():
                nn.init.zeros_(parameter)
    nodes = method.embed_nodes(GRAPH).detach()
    method.load_state_dict(kept)
    return nodes


# --- attention


def test_the_attention_bias_is_a_function_of_both_distances(method):
    bias = method.attention_bias(GRAPH)
    assert bias.shape == (2, V, V)
    pairs = {}
    for a in range(V):
        for b in range(V):
            pairs.setdefault((int(GRAPH[a, b]), int(GRAPH[b, a])), []).append(bias[:, a, b])
    assert len(pairs) == 1 + 2 * 7 + 1  # itself, 1 to 7 steps either way, no path
    for values in pairs.values():
        assert_close(torch.stack(values), values[0].expand(len(values), -1))
    means = torch.stack([values[0] for values in pairs.values()])
    assert torch.pdist(means).min() > 1e-5


def test_the_bias_is_added_to_the_logits_of_attention():
    """log c on one key is the same as c copies of it."""
    torch.manual_seed(0)
    attention = Attention(12, 3)
    x = torch.randn(2, 4, 12, generator=generator(0, "x"))
    bias = torch.zeros(3, 4, 4)
    bias[:, :, 1] = math.log(3)
    copies = torch.cat([x, x[:, 1:2], x[:, 1:2]], 1)
    assert_close(attention(x, x, bias), attention(x, copies), rtol=1e-4, atol=1e-5)
    assert_close(attention(x, x, torch.zeros(3, 4, 4)), attention(x, x), rtol=0, atol=0)


def test_a_head_that_is_barred_by_its_bias_sees_nothing_else():
    torch.manual_seed(0)
    block = TransformerBlock(12, 3)
    x = torch.randn(2, 4, 12, generator=generator(0, "x"))
    barred = torch.full((3, 4, 4), -1e9)
    barred[:, range(4), range(4)] = 0
    alone = torch.cat([block(x[:, j : j + 1]) for j in range(4)], 1)
    assert_close(block(x, barred), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(block(x), alone, atol=1e-3)


def test_the_states_feel_the_bias(method):
    condition = torch.randn(2, N_WAY, 16, generator=generator(0, "condition"))
    before = method.node_states(condition)
    with torch.no_grad():
        method.distance_bias[-1].weight.mul_(-5)
    assert (method.node_states(condition) - before).abs().max() > 1e-3


# --- the decoder


def test_a_block_is_repeated_and_cut():
    block = torch.arange(6).reshape(2, 3)
    assert tile(block, (3, 5)).tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [0, 1, 2, 0, 1]]
    assert tile(block, (1, 2)).tolist() == [[0, 1]]
    assert tile(block, (4,)).tolist() == [[0, 1, 2, 0], [3, 4, 5, 3]]


def test_larger_tensors_share_blocks(method, worlds):
    x = method.space.unflatten(method.to_x(made(method, worlds["shared"].context), method.initialization.shared))
    block = 5  # of OWN
    for name, axes in {"hidden.weight": (1, 2), "hidden.bias": (1,), "output.weight": (2,)}.items():
        for axis in axes:
            size = x[name].shape[axis]
            assert size > block
            assert_close(
                x[name].narrow(axis, block, size - block), x[name].narrow(axis, 0, size - block), rtol=1e-3, atol=1e-3
            )
            first = x[name].narrow(axis, 0, block)
            assert (first - first.roll(1, axis)).abs().max() > 0.01


@pytest.mark.parametrize("block", [1, 5, 40])
def test_blocks_of_any_size_fill_the_head(block, worlds):
    method = stirred(worlds["shared"].prepared("ghn3", own={"block": block}))
    assert draw(method, worlds["shared"].context).shape == (5, method.space.dim(N_WAY))


@pytest.mark.parametrize("name", ["hidden.weight", "hidden.bias", "output.weight", "output.bias"])
def test_every_tensor_is_decoded_from_its_own_node(name, method):
    """Of all the states, it hears its node's, and the classes' where it has a row for each."""
    h = torch.randn(1, V, 16, generator=generator(0, "states"), requires_grad=True)
    (g,) = torch.autograd.grad(method.space.unflatten(method._decode(h))[name].square().sum(), h)
    heard = g[0].abs().sum(-1) > 0
    expected = [each == name for each in NODE_OPERATIONS] + [name.startswith("output")] * N_WAY
    assert heard.tolist() == expected


# --- the condition


@pytest.mark.parametrize("kind", ["prototype", "shared"])
def test_without_the_condition_it_is_the_original_one_head_for_all_tasks(kind, worlds):
    """As a difference to the start; and no class differs from another."""
    world = worlds[kind]
    method = stirred(world.prepared("ghn3"))

    def x():
        return method.to_x(draw(method, world.context), method.initialization.centre(world.context))

    assert (x() - x()[:1]).abs().max() > 0.01
    nn.init.zeros_(method.condition[1].weight)
    assert_close(x(), x()[:1].expand_as(x()), rtol=1e-3, atol=1e-3)
    rows = method.space.unflatten(x())["output.weight"]
    assert_close(rows, rows[:, :1].expand_as(rows), rtol=1e-3, atol=1e-3)


def test_the_condition_is_added_to_what_the_graph_says_of_the_classes(method):
    condition = torch.randn(2, N_WAY, 16, generator=generator(0, "condition"))
    h = method.embed_nodes(GRAPH) + torch.cat([torch.zeros(2, len(NODE_OPERATIONS), 16), condition], 1)
    for block in method.blocks:
        h = block(h, method.attention_bias(GRAPH))
    assert_close(method.node_states(condition), method.norm(h))


@pytest.mark.parametrize("name", ["hidden.weight", "hidden.bias", "output.weight", "output.bias"])
def test_the_gradient_of_every_tensor_reaches_every_row_of_the_context(name, method, worlds):
    rows = worlds["shared"].context.rows.clone().requires_grad_()
    tensor = method.space.unflatten(made(method, context_of(rows)))[name]
    (g,) = torch.autograd.grad(tensor[2].square().sum(), rows)
    assert (g[2].abs().sum(-1) > 0).all()
    assert (g[[0, 1, 3, 4]] == 0).all()


@pytest.mark.parametrize("kind", ["prototype", "shared"])
def test_permuted_classes_permute_the_output_layer(kind, worlds):
    method, context, permutation = stirred(worlds[kind].prepared("ghn3")), worlds[kind].context, torch.tensor([2, 0, 1])
    w, permuted = (
        method.space.unflatten(method.to_x(draw(method, c), method.initialization.centre(c)))
        for c in (context, context_of(context.rows[:, permutation]))
    )
    for name in ("output.weight", "output.bias"):
        assert_close(permuted[name], w[name][:, permutation], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(permuted[name], w[name], atol=1e-2)
    for name in ("hidden.weight", "hidden.bias"):
        assert_close(permuted[name], w[name], rtol=1e-3, atol=1e-3)


# --- it learns


def test_a_new_network_keeps_the_start(worlds):
    for world in worlds.values():
        method = world.prepared("ghn3")
        assert_close(draw(method, world.context), method.initialization.centre(world.context), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["prototype", "shared"])
def test_the_loss_falls_and_all_parameters_move(kind, worlds):
    world = worlds[kind]
    method = world.prepared(
        "ghn3", own={"block": 12}, meta={"new_tasks": 40, "max_shot": 1, "query_loss": 1.0, "weight_loss": 0.0}
    )
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=40, ema=0.9))]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert [name for name, value in method.named_parameters() if torch.equal(value, before[name])] == []
