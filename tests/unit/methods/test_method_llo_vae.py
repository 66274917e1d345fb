"""The VAE of trained heads: its KL, its bound, its gradient through the draw, its start, its loops."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close
from worlds import HIDDEN, N_WAY, World, draw, stirred

from ltdi.methods.generators.llo_vae import Vae, kl_to_prior
from ltdi.tasks.batch import map_batch
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

NAME = "llo_vae"
BOUND = {"weight_loss": 1.0, "query_loss": 0.0}
REPTILE = {"inner_steps": 2, "inner_optimizer": "adam", "inner_lr": 1e-3}


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def gaussian(*shape: int, name: str = "test") -> Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def batch_of(method, world, n: int = 40, **names) -> dict[str, Tensor]:
    tasks = torch.arange(n)
    return method.draw_inputs(world.train.batch(tasks), world.points[tasks], generator(0, "batch", *names.values()))


def new_batch_of(method, world, **names) -> dict[str, Tensor]:
    return method.draw_inputs(world.train.batch(torch.arange(6)), None, generator(0, "batch", *names.values()))


def _double(value: Tensor) -> Tensor:
    """All but labels."""
    return value.double() if value.is_floating_point() else value


def known(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return batch["rows"], batch["present"]


# --- the bound


def test_the_kl_is_that_of_the_two_gaussians():
    mean, log_var = gaussian(5, 4, 3, name="mean"), gaussian(5, 4, 3, name="log_var")
    exact = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    assert_close(kl_to_prior(mean, log_var), exact.sum((1, 2)))
    assert_close(kl_to_prior(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)), torch.zeros(2))


class LinearVae(Vae):
    """z ~ N(0, I), x | z ~ N(A z, β I), and a posterior that is given: all is Gaussian, so that log p(x) is known."""

    def __init__(self, world: World, A: Tensor) -> None:
        sizes = {"width": 4, "depth": 0, "heads": 1, "neurons_a_token": HIDDEN, "condition": "mean", "dropout": 0.0}
        super().__init__(world.head.space, world.head.n_features, latent=2, **sizes)
        self.A = A

    def encode(self, x: Tensor, rows: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.latent_shape(N_WAY)
        return (x @ self.to_mean.mT).unflatten(-1, shape), self.log_var.expand(len(x), *shape)

    def decode(self, z: Tensor, rows: Tensor, present: Tensor) -> Tensor:
        return z.flatten(-2) @ self.A.mT


def test_the_loss_is_the_negative_bound(world, monkeypatch):
    """(log p(x) + loss · D/(2β) + constant) is the posterior's distance to the true one: 0 at that, positive
    elsewhere."""
    beta, D, L = 0.3, world.head.space.dim(N_WAY), (1 + N_WAY) * 2
    # orthogonal columns make the true posterior independent in each number of z, as the encoder's is
    A = torch.linalg.qr(gaussian(D, L, name="A"))[0] * torch.linspace(0.5, 2.0, L, dtype=torch.float64)
    method = world.prepared(NAME, meta=BOUND, own={"latent": 2, "beta": beta}).double()
    # one variance for all numbers; by layers it is the bound of a decoder with a variance a layer
    monkeypatch.setattr(method, "coordinate_weights", lambda dim: torch.ones(dim, dtype=torch.float64))
    method.vae = LinearVae(world, A)
    assert method.vae.latent_shape(N_WAY) == (1 + N_WAY, 2)
    variance = beta / (beta + A.square().sum(0))

    x = gaussian(3, D, name="x")
    evidence = MultivariateNormal(
        torch.zeros(D, dtype=torch.float64), A @ A.mT + beta * torch.eye(D, dtype=torch.float64)
    ).log_prob(x)
    # pairs of opposite draws, in quadrature for each number of z: the mean over them is the expectation of a quadratic
    scale = math.sqrt(L)
    noise = torch.cat(
        [scale * torch.eye(L, dtype=torch.float64), -scale * torch.eye(L, dtype=torch.float64)]
    ).unflatten(-1, (1 + N_WAY, 2))

    def bound(to_mean: Tensor, log_var: Tensor) -> Tensor:
        method.vae.to_mean, method.vae.log_var = to_mean, log_var.unflatten(-1, method.vae.latent_shape(N_WAY))
        batch = map_batch(lambda value: _double(value[:1]), batch_of(method, world, 1))
        losses = [
            method.functional_loss(
                {},
                map_batch(lambda value: value.expand(3, *value.shape[1:]), batch | {"noise": each[None]}) | {"x_0": x},
            )
            for each in noise
        ]
        return -torch.stack(losses).mean(0) * D / (2 * beta) - D / 2 * math.log(2 * math.pi * beta)

    to_mean = variance[:, None] / beta * A.mT
    assert_close(bound(to_mean, variance.log()), evidence)
    for other in (
        bound(0.8 * to_mean, variance.log()),
        bound(to_mean, variance.log() + 0.5),
        bound(to_mean, variance.log() - 0.5),
    ):
        assert (other < evidence - 0.01).all()


def test_the_gradient_goes_through_the_draw(world):
    """The bound's gradient by the encoder alone, against a difference at the same noise."""
    method = stirred(world.prepared(NAME, meta=BOUND)).double()
    batch = map_batch(_double, batch_of(method, world, 4))
    phi = dict(method.named_parameters())
    encoder = {name: value for name, value in phi.items() if "encoder" in name or "posterior" in name}
    direction = {name: gaussian(*value.shape, name=name) for name, value in encoder.items()}
    gradients = torch.autograd.grad(method.functional_loss(phi, batch).sum(), list(encoder.values()))
    slope = sum((g * d).sum() for g, d in zip(gradients, direction.values()))

    def moved(step: float) -> Tensor:
        return method.functional_loss(
            phi | {name: value + step * direction[name] for name, value in encoder.items()}, batch
        ).sum()

    with torch.no_grad():
        assert_close(slope, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-8)
    assert slope.abs() > 1e-3
    mean, log_var = method.vae.encode(batch["x_0"], *known(batch))
    assert all(each.std(0).min() > 0 for each in (mean, log_var)), "the posterior does not see the head"


# --- the heads


@pytest.mark.parametrize("kind", ["prototype", "shared", "fresh"])
def test_it_begins_at_the_start(kind):
    world = World(kind)
    assert_close(
        draw(world.prepared(NAME), world.context), world.initialization.centre(world.context).clone(), rtol=0, atol=0
    )


def test_heads_are_decoded_from_draws_of_the_temperature(world):
    cold, warm = (stirred(world.prepared(NAME, own={"temperature": temperature})) for temperature in (0.0, 2.0))
    assert_close(draw(cold, world.context, 0), draw(cold, world.context, 1), rtol=0, atol=0)
    assert not torch.allclose(draw(warm, world.context, 0), draw(warm, world.context, 1), atol=1e-3)
    # at the mean all tokens of a layer have the same latent; their places tell them apart
    x = cold.to_x(draw(cold, world.context), world.initialization.centre(world.context))
    first, second, _ = cold.space.tokens(x)["hidden"].unflatten(1, (3, HIDDEN // 3)).unbind(1)
    assert not torch.allclose(first, second, atol=1e-3)
    z = 2.0 * torch.randn(1, *warm.vae.latent_shape(N_WAY), generator=generator(0, "noise")).expand(
        len(world.context), -1, -1
    )
    x = warm.vae.decode(z, world.context.rows, world.context.present).detach()
    assert_close(
        draw(warm, world.context), warm.to_w(x, world.initialization.centre(world.context)), rtol=1e-4, atol=1e-5
    )


def test_new_tasks_show_the_query_loss_the_draws_that_heads_are_decoded_from(world):
    method = stirred(world.prepared(NAME, meta={"query_loss": 3.0}, own={"temperature": 2.0}))
    batch, task = new_batch_of(method, world), world.train.batch(torch.arange(6))
    assert_close(
        torch.stack([new_batch_of(method, world, seed=seed)["z"] for seed in range(30)]).std().item(),
        1.0,
        rtol=0.05,
        atol=0,
    )
    w = method.to_w(method.vae.decode(2.0 * batch["z"], *known(batch)), world.initialization.centre(task.context))
    loss = method.functional_loss(dict(method.named_parameters()), batch)
    assert_close(loss, 3 * world.head.loss(w, task.query))


# --- the loops


@pytest.mark.slow
def test_trained_heads_come_back_from_their_latents_with_the_help_of_the_condition():
    """From a start that says nothing of the task; β small, so that the latents may carry the heads."""
    world = World("shared")
    method = world.prepared(NAME, meta=BOUND | {"recorded_tasks": 40}, own={"beta": 1e-3})
    world.rows(method, Training(method, lr=1e-2, steps=240, ema=0.0))
    batch = batch_of(method, world)

    def error(rows: Tensor) -> tuple[float, float]:
        """Of heads decoded from their posterior, and from the prior."""
        own, _ = method.vae(batch["x_0"], batch["noise"], rows, batch["present"])
        x = method.vae(None, batch["z"], rows, batch["present"])
        return own.mean().item(), (x - batch["x_0"]).square().mean().item()

    own, prior = error(batch["rows"])
    others, _ = error(batch["rows"].roll(1, 0))
    assert own < 0.8 * others
    assert own < 0.5 * prior


@pytest.mark.parametrize("inner", [{}, REPTILE], ids=["joint", "reptile"])
def test_the_loss_falls(inner):
    world = World("shared")
    method = world.prepared(NAME, meta=inner | {"recorded_tasks": 40})
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    losses = [row["loss"] for row in world.rows(method, Training(method, lr=1e-2, steps=25, ema=0.9))]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert [name for name, value in method.named_parameters() if torch.equal(value, before[name])] == []


def test_one_step_of_the_inner_loop_is_joint_training(world):
    """Nothing in the loss ties a task to its neighbours: task by task gives the same gradient as the batch at once."""
    method = stirred(world.prepared(NAME))
    phi = dict(method.named_parameters())
    for batch in (batch_of(method, world, 6), new_batch_of(method, world)):
        together = method.functional_loss(phi, batch)
        alone = torch.cat(
            [method.functional_loss(phi, map_batch(lambda value, j=j: value[j : j + 1], batch)) for j in range(6)]
        )
        assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_recorded_tasks_count_in_the_bound_as_well_and_new_ones_in_the_query_loss_alone(world):
    def losses(weight_loss: float, query_loss: float) -> tuple[Tensor, Tensor]:
        method = stirred(world.prepared(NAME, meta={"weight_loss": weight_loss, "query_loss": query_loss}))
        phi = dict(method.named_parameters())
        return tuple(
            method.functional_loss(phi, batch).detach()
            for batch in (batch_of(method, world, 6), new_batch_of(method, world))
        )

    (bound, nothing), (query, of_new) = losses(1.0, 0.0), losses(0.0, 1.0)
    assert (bound > 0).all() and (query > 0).all() and (of_new > 0).all() and not nothing.any()
    for one, other in zip(losses(0.5, 2.0), (0.5 * bound + 2 * query, 2 * of_new)):
        assert_close(one, other)


def test_every_step_and_every_inner_step_has_its_own_draws(world):
    method = world.prepared(NAME, meta={"recorded_tasks": 4, "new_tasks": 1})
    first, second = world.rows(method, Training(method, lr=1e-9, steps=2, ema=0.9))
    assert first["loss"] != pytest.approx(second["loss"], rel=1e-3)

    drawn = []
    method = world.prepared(NAME, meta=REPTILE)
    draw_batch, method.draw_inputs = method.draw_inputs, lambda *given: drawn.append(draw_batch(*given)) or drawn[-1]
    list(method.meta_train(Training(method, lr=1e-3, steps=1, ema=0.9), world.train, world.trajectories, seed=0))
    recorded, new = drawn[::2], drawn[1::2]
    assert not torch.equal(recorded[0]["noise"], recorded[1]["noise"])
    assert_close(recorded[0]["x_0"], recorded[1]["x_0"])
    assert [len(part[0]["z"]) for part in (recorded, new)] == [16, 4]
    for one, other in (recorded, new):
        assert not torch.equal(one["z"], other["z"])
    assert not torch.equal(new[0]["rows"], new[1]["rows"])


def test_validation_says_how_heads_come_back(world):
    method = world.prepared(NAME)
    values = method.validate(world.val, world.val_trajectories, seed=0)
    centre = world.initialization.centre(world.val.context(torch.arange(len(world.val))))
    assert_close(values["val_loss_w0"], method.to_x(world.val_points[:, 0], centre).square().mean().item())
    further = Trajectories.of(2 * world.val_points)
    assert method.validate(world.val, further, seed=0)["val_kl"] != values["val_kl"] > 0
