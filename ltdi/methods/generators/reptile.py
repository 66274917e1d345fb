"""REPTILE (Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms"): an initialisation of the whole
network, body and head, from which a few gradient steps on the support set lead to a task's own network.

Differs from the published form:
- the initialisation starts from the pre-trained body, for the budget is small; published: from scratch;
- batch norm keeps the running statistics of the pre-trained body. Statistics of a test batch would let the queries
  of a task see each other, which no other method here may; those of a meta-batch would tie its tasks together;
- the head starts from what the support set says (``Start.centre``, in the features of the initialisation) plus a
  learned shift; with the start ``shared`` that is the published form, one initialisation for all tasks;
- the outer step hands the pseudo-gradient φ − mean φ_i to Adam, where the published one moves φ by it.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.embedding import embed, embed_there
from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import linear_classifier
from ltdi.learners.base import Classifier
from ltdi.learners.fitting import adapt
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.tasks.batch import Batch
from ltdi.tasks.class_tasks import ClassTasks, context_of, labelled
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import accuracy
from ltdi.utils.seeding import generator as named_generator
from ltdi.utils.trainer import Row, Training

IMAGES_AT_ONCE = 128
"""What one pass holds in memory; a pass over one task is never split."""


class Network(Classifier):
    """A whole network: ``body``, Conv4's shapes with each task's own parameters, and a head on its features."""

    inputs_together, from_images = IMAGES_AT_ONCE, True

    def __init__(self, body: nn.Module, head: Classifier, feature_scale: Tensor) -> None:
        self.body, self.head, self.feature_scale = body, head, feature_scale
        self.n_numbers = head.n_numbers
        own: dict[str, tuple[int | None, ...]] = {name: tuple(p.shape) for name, p in body.named_parameters()}
        self.space = WeightSpace(own | head.space.shapes)

    def facts(self) -> dict[str, Any]:
        return {"name": "network", "head": self.head.facts()}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        raise NotImplementedError("the network's first weights are its trained body's")

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The trained body with that classifier on it."""
        return self.of(self.head.linear(weight, bias))

    def of(self, w: Tensor) -> Tensor:
        """Heads (B, D_head) on the trained body: (B, D)."""
        body = {name: value.expand(len(w), *value.shape) for name, value in self.body.named_parameters()}
        return self.space.flatten(body | self.head.space.unflatten(w))

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        return super().loss(w, {"inputs": batch["images"], "labels": batch["labels"]})

    @torch.no_grad()
    def score(self, w: Tensor, batch: Batch) -> Tensor:
        parts = batch["images"].split(max(1, IMAGES_AT_ONCE // len(w)), dim=1)
        return accuracy(torch.cat([self.logits(w, part) for part in parts], dim=1), batch["labels"])

    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        """w (B, D), images (B, M, channels, height, width) uint8 -> (B, M, N)."""
        tensors = self.space.unflatten(w)
        return self.head.logits(self.head.space.flatten(tensors), self.features(tensors, inputs))

    def features(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The features (B, M, F) of Conv4 in evaluation mode, each task's parameters (B, …) on its own images.

        The tasks are the groups of one convolution, and batch norm is folded into its kernels.
        """
        x = images.transpose(0, 1).flatten(1, 2).float() / 255
        for i, (_, norm, *_) in enumerate(self.body.blocks):  # type: ignore[arg-type]
            gain = tensors[f"blocks.{i}.1.weight"] / (norm.running_var + norm.eps).sqrt()
            kernel = gain[..., None, None, None] * tensors[f"blocks.{i}.0.weight"]
            bias = tensors[f"blocks.{i}.1.bias"] - gain * norm.running_mean
            x = F.conv2d(x, kernel.flatten(0, 1), bias.flatten(), padding=1, groups=len(gain))
            x = F.max_pool2d(x, 2).relu()
        return x.mean((2, 3)).unflatten(1, (len(images), -1)).transpose(0, 1) / self.feature_scale


class Reptile(Method):
    """φ: the parameters of the body and the ``shift`` (D_head,) of the head from its start.

    Args:
        setup: query_images a class join the support in the inner loop; n_way classes of a task, at meta-training as
            well.
        tasks_a_batch: training tasks of a step.
        inner_steps, adapt_steps: gradient steps on a task at meta-training, and at generation.
        inner_images: images a class in one of these steps.
    """

    needs = ("images", "head", "examples")
    adapts = fixed_n_way = True
    feature_scale: Tensor

    def __init__(
        self,
        initialization: Initialization,
        setup: Setup,
        *,
        tasks_a_batch: int,
        inner_steps: int,
        adapt_steps: int,
        inner_optimizer: str,
        inner_lr: float,
        inner_images: int,
    ) -> None:
        super().__init__(initialization, setup)
        self.n_way, self.query_images, self.tasks_a_batch = setup.n_way, setup.meta.query_images, tasks_a_batch
        self.inner_steps, self.adapt_steps, self.inner_images = inner_steps, adapt_steps, inner_images
        self.inner_optimizer, self.inner_lr = inner_optimizer, inner_lr
        if not isinstance(setup.body, Conv4):
            raise InputError(
                f"method.name = 'reptile' adapts the body conv4, and this run's is {type(setup.body).__name__}; choose"
                " another method, or body.name = conv4"
            )
        self.body = deepcopy(setup.body).requires_grad_()
        # the centre of a start that is drawn is zero, where a head of two layers has no gradient
        self.shift = nn.Parameter(
            initialization.shared.clone() if initialization.drawn else torch.zeros_like(initialization.shared)
        )
        self.register_buffer("feature_scale", torch.ones(()))

    @property
    def learner(self) -> Network:
        return Network(self.body, linear_classifier(self.initialization.learner, "reptile"), self.feature_scale)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """The constant by which the sources divide the body's features, so that heads mean the same here."""
        assert isinstance(train, ClassTasks) and train.of.images is not None
        some = train.of.first[:IMAGES_AT_ONCE]
        own = embed(self.body, train.of.images[some], batch=IMAGES_AT_ONCE)
        self.feature_scale.copy_(own.norm() / train.of.features[some].norm().to(own))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        N, K = context.rows.shape[1:3]
        tasks_at_once = max(1, IMAGES_AT_ONCE // (N * min(K, self.inner_images)))
        return torch.cat([self._adapted(context[tasks]) for tasks in torch.arange(len(context)).split(tasks_at_once)])

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """The row's loss is that after the inner steps, on the images of the step that would be next."""
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            names = train.draw(self.tasks_a_batch, stream, n_way=self.n_way)
            task = train.new(names, stream, n_query=self.query_images)
            support, query = _images(task.context), task.query["images"].unflatten(1, (self.n_way, -1))
            images = torch.cat([support, query], dim=2)
            order = torch.randperm(images.shape[2], generator=stream)
            first = self.initial_weights(task.context)
            adapted, loss = self._adapt(first, self._batches(images[:, :, order]), self.inner_steps)
            moved = self.learner.space.unflatten((first - adapted).mean(0))
            for name, parameter in self.body.named_parameters():
                parameter.grad = moved[name]
            self.shift.grad = self.initialization.learner.space.flatten(moved)
            training.descend()
            yield {"step": training.step, "loss": loss.mean().detach()}

    @torch.no_grad()
    def initial_weights(self, context: Context) -> Tensor:
        """The initialisation of each task (B, D)."""
        features = embed_there(self.body, _images(context), batch=IMAGES_AT_ONCE) / self.feature_scale
        return self.learner.of(self.initialization.centre(context_of(features, context.mask)) + self.shift)

    def _adapted(self, context: Context) -> Tensor:
        batches = self._batches(_images(context), context.present.sum(-1).long())
        return self._adapt(self.initial_weights(context), batches, self.adapt_steps)[0]

    def _adapt(self, w: Tensor, batches: Iterator[Batch], steps: int) -> tuple[Tensor, Tensor]:
        """Weights (B, D) after ``steps`` steps from w (B, D), and their losses (B,)."""
        optimizer, lr = self.inner_optimizer, self.inner_lr
        path = adapt(self.learner.loss, w, batches, optimizer=optimizer, lr=lr, record=[steps])
        return path.weights[:, 0], path.losses[:, 0]

    def _batches(self, images: Tensor, shots: Tensor | None = None) -> Iterator[Batch]:
        """``inner_images`` of each class in turn, with their labels, without an end: of the images (B, N, M, …) the
        first ``shots`` (B, N) of a class, or all."""
        B, N, M = images.shape[:3]
        shots = torch.full((B, N), M, device=images.device) if shots is None else shots
        chosen = torch.arange(min(self.inner_images, M), device=images.device)
        task = torch.arange(B, device=images.device)[:, None, None]
        of_class = torch.arange(N, device=images.device)[:, None]
        for step in count():
            some = labelled(images[task, of_class, (chosen + step * len(chosen)) % shots[..., None]])
            yield {"images": some["inputs"], "labels": some["labels"]}


def _images(context: Context) -> Tensor:
    """(B, N, K, channels, height, width)"""
    assert context.examples is not None
    return context.examples["images"].unflatten(1, context.rows.shape[1:3])
