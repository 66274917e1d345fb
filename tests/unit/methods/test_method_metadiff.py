"""Meta-Diff: its sampler and gradient against closed forms, and what it is before it has learned anything."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from worlds import META, N_WAY, World, draw, stirred

from ltdi.initialization.closed_form import TEMPERATURES
from ltdi.methods.generators.metadiff import support_gradient
from ltdi.tasks.base import Task
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import nearest_mean_accuracy
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

SAMPLING_STEPS = (1, 3, 10, 1000)


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def noise(context, seed=0):
    return torch.randn(context.means.shape, generator=generator(seed, "noise")).flatten(1)


class Knowing(nn.Module):
    """In the place of the denoiser: it knows x_0 (B, N, F), so that ε is the noise between it and x_t."""

    def __init__(self, process, x_0):
        super().__init__()
        self.process, self.x_0 = process, x_0

    def forward(self, g, means, t):
        a = self.process.schedule.alpha_bar[t][:, None, None]
        return (means + g / 2 - a.sqrt() * self.x_0) / (1 - a).sqrt()


# --- the gradient


def test_the_gradient_of_the_support_loss_is_autograds(world):
    means = world.context.means
    rows = torch.randn(means.shape, generator=generator(0, "rows")).requires_grad_()
    loss = (rows[:, :, None] - world.context.rows).square().sum(-1).mean(-1).sum()
    assert_close(support_gradient(rows.detach(), means), torch.autograd.grad(loss, rows)[0])


# --- the sampler


def test_all_steps_are_ddpms_mean(world):
    """The published chain: x_{t−1} = (x_t − β_t/√(1 − ᾱ_t)·ε)/√(1 − β_t), β from 1e-4 to 0.02 over 1,000 times."""
    method = world.prepared("metadiff", own={"sampling_steps": 1000})
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    x, means = noise(world.context).double(), world.context.means.flatten(1).double()
    for t in reversed(range(1000)):
        epsilon = 2 * (x - means)
        x = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * epsilon) / (1 - beta[t]).sqrt()
    with torch.no_grad():
        assert_close(method.denoise(noise(world.context), world.context), x.float(), rtol=1e-3, atol=1e-3)


def test_a_few_steps_are_ddpms_mean_between_the_visited_times(world):
    method = world.prepared("metadiff", own={"sampling_steps": 4})
    alpha_bar = torch.cat([torch.ones(1), (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)])
    x, means = noise(world.context).double(), world.context.means.flatten(1).double()
    for t, s in ((1000, 750), (750, 500), (500, 250), (250, 0)):
        alpha = alpha_bar[t] / alpha_bar[s]
        x = (x - (1 - alpha) / (1 - alpha_bar[t]).sqrt() * 2 * (x - means)) / alpha.sqrt()
    with torch.no_grad():
        assert_close(method.denoise(noise(world.context), world.context), x.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampling_steps", SAMPLING_STEPS)
def test_a_perfect_denoiser_is_followed_to_its_point_in_any_number_of_steps(sampling_steps, world):
    method = world.prepared("metadiff", own={"sampling_steps": sampling_steps})
    x_0 = torch.randn(world.context.means.shape, generator=generator(0, "target"))
    method.denoiser = Knowing(method.process, x_0)
    assert_close(method.denoise(noise(world.context), world.context), x_0.flatten(1), rtol=1e-3, atol=2e-3)


def test_the_denoiser_is_told_the_times_that_it_was_trained_on(world):
    method = world.prepared("metadiff", own={"sampling_steps": 4})
    times = []
    method.denoiser.register_forward_pre_hook(lambda module, inputs: times.append(inputs[2].unique().tolist()))
    draw(method, world.context)
    assert times == [[1000], [750], [500], [250]]


# --- what it is untrained


@pytest.mark.parametrize("sampling_steps", [10, 1000])
def test_untrained_its_class_weights_are_nearly_the_class_means(sampling_steps, world):
    """The known weakness: the gradient alone leads to the prototypes, from any noise."""
    method = world.prepared("metadiff", own={"sampling_steps": sampling_steps})
    with torch.no_grad():
        rows = method.denoise(noise(world.context, seed=1), world.context).unflatten(1, (N_WAY, -1))
    assert F.cosine_similarity(rows, world.context.means, dim=-1).min() > 0.99


def test_untrained_it_classifies_as_the_nearest_mean(world):
    task = world.val.batch(torch.arange(len(world.val)))
    method = world.prepared("metadiff", own={"sampling_steps": 1000})
    scores = world.head.score(draw(method, task.context), task.query)
    nearest = nearest_mean_accuracy(task.context.means, task.query["inputs"], task.query["labels"])
    assert (scores - nearest).abs().mean() < 0.03


# --- rows as a head


def test_a_head_is_its_classifier(world):
    rows = torch.randn(5, N_WAY, 8, generator=generator(0, "rows"))
    features = world.context.examples["inputs"]
    cosines = F.cosine_similarity(features[:, :, None], rows[:, None], dim=-1)
    distances = torch.cdist(features, rows).square()
    by_cosine = world.prepared("metadiff", own={"classifier": "cosine"})
    by_distance = world.prepared("metadiff")
    # what a head cannot hold is the same for all classes: the image's norm
    norms = features.norm(dim=-1, keepdim=True)
    assert_close(world.head.logits(by_cosine.to_head(rows, 7.0), features), 7 * norms * cosines)
    shared = -3 * features.square().sum(-1, keepdim=True)
    assert_close(
        world.head.logits(by_distance.to_head(rows, 3.0), features) + shared, -3 * distances, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("classifier", ["distance", "cosine"])
def test_the_temperature_is_calibrated_on_meta_val(classifier, world):
    method = world.prepared("metadiff", own={"classifier": classifier})
    task = world.val.batch(torch.arange(len(world.val)))

    def loss(temperature):
        w = method.to_head(task.context.means, temperature)
        return world.head.loss(w, task.query).mean().item()

    assert loss(method.temperature.item()) == min(loss(temperature) for temperature in TEMPERATURES)


def test_permuted_classes_permute_their_weights(world):
    method, permutation = stirred(world.prepared("metadiff")), torch.tensor([2, 0, 1])
    x_T = noise(world.context)
    permuted = x_T.unflatten(1, (N_WAY, -1))[:, permutation].flatten(1)
    with torch.no_grad():
        rows = method.denoise(x_T, world.context).unflatten(1, (N_WAY, -1))
        again = method.denoise(permuted, context_of(world.context.rows[:, permutation])).unflatten(1, (N_WAY, -1))
    assert_close(again, rows[:, permutation], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(again, rows, atol=1e-2)


def test_more_sampling_steps_than_times_are_refused(world):
    with pytest.raises(InputError, match="sampling_steps = 11 .* diffusion_steps = 10"):
        world.build("metadiff", own={"diffusion_steps": 10, "sampling_steps": 11})


# --- learning


def test_a_perfect_denoiser_has_no_weight_loss(world):
    method = world.prepared("metadiff", meta={"query_loss": 0.0})
    task = world.train.batch(torch.arange(6))
    x_0 = torch.randn(task.context.means.shape, generator=generator(0, "target"))
    method.denoiser = Knowing(method.process, x_0)
    assert method.loss(task, x_0.flatten(1), generator(0, "loss")).max() < 1e-4
    assert method.loss(task, x_0.flatten(1) + 1, generator(0, "loss")).min() > 1e-5


def test_the_targets_are_the_class_means_of_all_images(world, monkeypatch):
    method = world.prepared("metadiff", meta={"new_tasks": 8})
    seen = []

    def loss(task, x_0, stream):
        seen.append((task.context.rows, x_0))
        return method.temperature * sum(parameter.sum() for parameter in method.parameters()).expand(1)

    monkeypatch.setattr(method, "loss", loss)
    world.rows(method, Training(method, lr=1e-3, steps=1, ema=0.9))
    (rows, x_0), means = seen[0], world.train.of.features.unflatten(0, (12, 10)).mean(1)
    targets = x_0.unflatten(1, (META["n_way"], -1))
    # every support image is one of the class whose mean is the target
    classes = torch.cdist(targets, means).argmin(-1)
    assert_close(means[classes], targets)
    images = world.train.of.features.unflatten(0, (12, 10))[classes]
    found = (rows[:, :, :, None] == images[:, :, None]).all(-1).any(-1)
    assert len(rows) == 8 and found.all()


def test_the_query_loss_is_that_of_the_generated_head(world):
    method = world.prepared("metadiff", meta={"weight_loss": 0.0, "query_loss": 2.0})
    task = world.train.batch(torch.arange(6))
    x_0 = torch.rand(task.context.means.shape, generator=generator(0, "target"))
    method.denoiser = Knowing(method.process, x_0)
    wanted = 2 * world.head.loss(draw(method, task.context), task.query)
    assert_close(method.loss(task, x_0.flatten(1), generator(0, "loss")), wanted, rtol=1e-2, atol=1e-3)


def test_the_weight_loss_has_its_coefficient(world):
    task = world.train.batch(torch.arange(6))
    x_0 = task.context.means.flatten(1)
    methods = (world.prepared("metadiff", meta={"weight_loss": weight, "query_loss": 0.0}) for weight in (1.0, 3.0))
    one, three = (method.loss(task, x_0, generator(0, "loss")) for method in methods)
    assert_close(three, 3 * one)


def test_the_correction_depends_on_the_class(world):
    denoiser = stirred(world.prepared("metadiff")).denoiser
    g, t = torch.randn(2, N_WAY, 8, generator=generator(0, "g")), torch.tensor([500, 500])
    assert not torch.allclose(denoiser(g, torch.zeros_like(g), t), denoiser(g, torch.ones_like(g), t), atol=1e-3)


def test_every_step_has_a_batch_of_its_own(world):
    method = world.prepared("metadiff", meta={"new_tasks": 40, "query_loss": 0.0})
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-12, steps=3, ema=0.9))]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("losses", [{"weight_loss": 0.0}, {"query_loss": 0.0}], ids=["query", "weight"])
def test_the_gradient_reaches_every_parameter_and_the_condition(losses, world):
    method, task = stirred(world.prepared("metadiff", meta=losses)), world.train.batch(torch.arange(6))
    rows = task.context.rows.clone().requires_grad_()
    method.loss(
        Task(context_of(rows), task.query), task.context.means.flatten(1), generator(0, "loss")
    ).sum().backward()
    assert [name for name, value in method.named_parameters() if not value.grad.abs().sum() > 0] == []
    assert (rows.grad.abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    "losses", [{"weight_loss": 1.0, "query_loss": 0.0}, {"weight_loss": 0.0, "query_loss": 1.0}], ids=["paper", "query"]
)
@pytest.mark.parametrize("classifier", ["distance", "cosine"])
def test_the_loss_falls(losses, classifier, world):
    # stirred, because the class means that it starts from leave little to learn in this world
    method = stirred(
        world.prepared(
            "metadiff", meta={"new_tasks": 40, **losses}, own={"classifier": classifier, "sampling_steps": 10}
        )
    )
    falls = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=40, ema=0.9))]
    assert sum(falls[-5:]) < 0.8 * sum(falls[:5])
