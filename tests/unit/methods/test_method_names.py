"""REPTILE and Meta-Baseline of classes that are names alone: what is ours in them, against plain computations; and what
one-pass networks are told of a name."""

import pytest
import torch
import torch.nn.functional as F
from described_worlds import N_WAY, E, NamedWorld
from described_worlds import F as FEATURES
from test_class_semantics import RowsAndImages
from torch.testing import assert_close
from worlds import draw, stirred

from ltdi.learners import TwoLayerHead
from ltdi.methods.generators.ghn3 import HIDDEN_NODES, NODE_OPERATIONS, head_distances, node_operations
from ltdi.methods.registry import build
from ltdi.tasks.base import Context
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

LEARNING = {"new_tasks": 4, "recorded_tasks": 0, "query_loss": 1.0, "weight_loss": 0.0}


@pytest.fixture(scope="module")
def world():
    return RowsAndImages()


@pytest.fixture(scope="module")
def named():
    return NamedWorld()


def direction(world, context):
    return F.normalize(world.initialization.directions(context), dim=-1)


# --- what is told


@pytest.mark.parametrize("name", ["weight_flow", "meta_hypernetwork", "ghn3", "reptile_names"])
def test_every_network_is_told_where_it_begins(name, world):
    """Two tasks of the same texts that begin elsewhere are moved differently, as for the diffusion methods."""
    own = {"meta_hypernetwork": {"adapt_steps": 0}, "weight_flow": {"noise": 0.0}}.get(name, {})
    method = stirred(world.prepared(name, own=own, meta=LEARNING))
    text = torch.randn(1, 5, 1, E, generator=generator(0, "text")).expand(2, -1, -1, -1)
    context = Context(text, known=torch.stack([torch.arange(5), torch.arange(5, 10)]))
    moved = draw(method, context) - method.initialization.centre(context)
    assert not torch.allclose(moved[0], moved[1], rtol=0.05)


def test_what_is_told_is_the_text_and_the_row_of_unit_size(world):
    method, context = world.prepared("ghn3", meta=LEARNING), world.val.context(torch.arange(3))
    centre = method.initialization.centre(context)
    conditioning = method.conditioning(context, centre)
    assert conditioning.shape == (3, N_WAY, E + FEATURES + 1) == (3, N_WAY, method.conditioning_width)
    assert_close(conditioning[..., :E], context.means)
    assert_close(
        conditioning[..., E:].flatten(1), F.normalize(centre, dim=-1) * centre.shape[1] ** 0.5, rtol=1e-4, atol=1e-4
    )


def test_the_graph_of_a_linear_head(named):
    space = named.initialization.learner.space
    assert list(node_operations(space)) == ["input", "output.weight", "output.bias", "output"]
    assert node_operations(TwoLayerHead(4, 4).space) == NODE_OPERATIONS and set(HIDDEN_NODES) < set(NODE_OPERATIONS)
    assert head_distances(2, 4).tolist() == [
        [0, 1, 2, 3, 6, 6],
        [6, 0, 1, 2, 6, 6],
        [6, 6, 0, 1, 6, 6],
        [6, 6, 6, 0, 6, 6],
        [1, 2, 3, 4, 0, 6],
        [1, 2, 3, 4, 6, 0],
    ]


def test_without_its_condition_ghn3_tells_no_class_from_another(named):
    method, context = stirred(named.prepared("ghn3", meta=LEARNING)), named.test.context(torch.arange(4))

    def x():
        return method.to_x(draw(method, context), method.initialization.centre(context)).unflatten(1, (N_WAY, -1))

    assert (x() - x()[:, :1]).abs().max() > 0.01
    torch.nn.init.zeros_(method.condition[1].weight)
    assert_close(x(), x()[:1, :1].expand_as(x()), rtol=1e-3, atol=1e-3)


# --- REPTILE


def test_reptile_of_names_generates_from_its_initialisation_without_a_step(named):
    method, context = stirred(named.prepared("reptile_names", meta=LEARNING)), named.test.context(torch.arange(4))
    centre = method.initialization.centre(context)
    assert_close(
        method.propose(context, centre, generator=generator(0, "noise")),
        method.to_w(method.map(method.conditioning(context, centre)).flatten(1), centre),
    )
    new = named.prepared("reptile_names", meta=LEARNING)
    assert_close(draw(new, context), centre, rtol=0, atol=0)


def test_reptile_of_names_moves_along_the_mean_way_of_its_tasks(named):
    """One outer step against plain loops of gradient steps, each on images drawn anew."""
    method = stirred(named.prepared("reptile_names", meta=LEARNING))
    phi = [value.detach().clone() for value in method.map.parameters()]
    seen, draw_one = [], method.draw_inputs
    method.draw_inputs = lambda *known: seen.append(draw_one(*known)) or seen[-1]
    training, kept = Training(method, lr=1e-3, steps=1, ema=0.9), []
    descend = training.descend
    training.descend = lambda: kept.extend(v.grad.clone() for v in method.map.parameters()) or descend()
    list(method.meta_train(training, named.train, named.trajectories, seed=0))
    assert len(seen) == 3
    moved = [torch.zeros_like(value) for value in phi]
    for task in range(4):
        own = [value.clone().requires_grad_() for value in phi]
        for batch in seen:
            conditioning, centre = batch["conditioning"][task : task + 1], batch["centre"][task : task + 1]
            query = {name: value[task : task + 1] for name, value in batch["query"].items()}
            w = method.to_w((conditioning @ own[0].mT + own[1]).flatten(1), centre)
            gradients = torch.autograd.grad(method.learner.loss(w, query).sum(), own)
            own = [(value - 0.05 * g).detach().requires_grad_() for value, g in zip(own, gradients)]
        moved = [m + (value - each.detach()) / 4 for m, value, each in zip(moved, phi, own)]
    for found, expected in zip(kept, moved, strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-5)


# --- Meta-Baseline


def test_untrained_meta_baseline_of_names_is_the_cosine_to_the_starts_rows(named):
    method, context = named.prepared("meta_baseline_names", meta=LEARNING), named.test.context(torch.arange(4))
    rows = method.space.unflatten(draw(method, context))
    assert_close(rows["output.weight"], 5 * direction(named, context), rtol=1e-4, atol=1e-4)
    assert_close(rows["output.bias"], -(rows["output.weight"] @ named.initialization.table.mean), rtol=1e-4, atol=1e-4)


def test_its_linear_head_answers_as_the_cosines_of_mapped_features(named):
    method, task = stirred(named.prepared("meta_baseline_names", meta=LEARNING)), named.test.batch(torch.arange(6))
    inputs, centroids = task.query["inputs"], direction(named, task.context)
    mapped = (inputs - named.initialization.table.mean) @ method.map.weight.mT
    expected = method.log_temperature.exp() * F.cosine_similarity(
        mapped[:, :, None], (centroids @ method.map.weight.mT)[:, None], dim=-1
    )
    assert_close(method.cosines(inputs, method.map(centroids)), expected, rtol=1e-3, atol=1e-4)
    w = method.propose(task.context, method.initialization.centre(task.context), generator=generator(0, "noise"))
    # of each image the logits are those times the length of its mapped features
    assert_close(method.learner.logits(w, inputs), expected * mapped.norm(dim=-1, keepdim=True), rtol=1e-3, atol=1e-3)


def test_it_classifies_first_and_then_sees_episodes(named):
    method = named.prepared("meta_baseline_names", meta=LEARNING)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    training = Training(method, lr=1e-2, steps=20, ema=0.9)
    rows = method.meta_train(training, named.train, named.trajectories, seed=0)
    losses = [next(rows)["loss"].item() for _ in range(6)]
    assert losses[-1] < losses[0] and torch.equal(method.log_temperature, before["log_temperature"])
    dropped = method.classifier.weight.detach().clone()
    for _ in rows:
        pass
    assert training.step == 20 and not torch.equal(method.log_temperature, before["log_temperature"])
    assert torch.equal(method.classifier.weight, dropped)


def test_known_classes_have_their_own_rows_as_centroids(world):
    method, context = world.prepared("meta_baseline_names", meta=LEARNING), world.train.context(torch.arange(3))
    assert_close(method.centroids(context), world.initialization.table.centred[context.known])


def test_a_start_that_is_not_of_names_is_refused_in_one_line():
    shared = NamedWorld("shared")
    with pytest.raises(
        InputError,
        match="^method.name = 'meta_baseline_names' needs an initialization from class names, [^\n]* from_names$",
    ):
        build(
            "meta_baseline_names", shared.initialization, shared.setup(), {"classify": 0.5, "temperature": 5.0}, seed=0
        )
