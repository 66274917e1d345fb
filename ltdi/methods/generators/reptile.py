"""REPTILE: a meta-learned initialization of the whole network, adapted by gradient steps on a task's support set.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms". Differences from the published form:
- meta-training starts from the pretrained backbone, because the budget is small; published: from scratch;
- batch norm keeps the running statistics of the pretrained backbone. Statistics of a test batch would make predictions
  of a task's queries depend on each other, unlike those of all other methods here; statistics of a meta-batch would
  make its tasks depend on each other;
- the head is initialized from the support set, in the features of the meta-learned backbone, plus a learned shift; with
  ``trajectories.initialization = shared`` that is the published form, one initialization for all tasks;
- the outer step passes the pseudo-gradient φ − mean φ_i to Adam, where the published one moves φ by it.
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
"""Images per forward pass; the images of one task in an inner step are never split."""


class Network(Classifier):
    """A learner whose weights are a whole network per task: backbone Conv4 and head.

    Args:
        body: the meta-learned backbone; its batch-norm statistics are those of every task.
        head: learner of a head on its features.
        feature_scale: divisor of the features ().
    """

    inputs_together, from_images = IMAGES_AT_ONCE, True

    def __init__(self, body: nn.Module, head: Classifier, feature_scale: Tensor) -> None:
        self.body, self.head, self.feature_scale = body, head, feature_scale
        self.n_numbers = head.n_numbers
        parameters: dict[str, tuple[int | None, ...]] = {name: tuple(p.shape) for name, p in body.named_parameters()}
        self.space = WeightSpace(parameters | head.space.shapes)

    def facts(self) -> dict[str, Any]:
        """Return the names of the learner and of its head; it is never rebuilt from a file."""
        return {"name": "network", "head": self.head.facts()}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Not supported: the initial weights are the meta-learned ones."""
        raise NotImplementedError("the network's first weights are its trained body's")

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the meta-learned backbone with a linear classifier, weight (B, N, F) and bias (B, N): (B, D)."""
        return self.with_head(self.head.linear(weight, bias))

    def with_head(self, w: Tensor) -> Tensor:
        """Return the weights (B, D) of the meta-learned backbone with heads w (B, D_head)."""
        body = {name: value.expand(len(w), *value.shape) for name, value in self.body.named_parameters()}
        return self.space.flatten(body | self.head.space.unflatten(w))

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of each task (B,) on the batch's images."""
        return super().loss(w, {"inputs": batch["images"], "labels": batch["labels"]})

    @torch.no_grad()
    def score(self, w: Tensor, batch: Batch) -> Tensor:
        """Return the accuracy of each task (B,) on the batch's images."""
        parts = batch["images"].split(max(1, IMAGES_AT_ONCE // len(w)), dim=1)
        return accuracy(torch.cat([self.logits(w, part) for part in parts], dim=1), batch["labels"])

    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        """Classify images (B, M, channels, height, width) uint8 with networks w (B, D): logits (B, M, N)."""
        tensors = self.space.unflatten(w)
        return self.head.logits(self.head.space.flatten(tensors), self.features(tensors, inputs))

    def features(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Embed each task's images (B, M, channels, height, width) with its own Conv4 in evaluation mode: (B, M, F).

        The tasks are the groups of one convolution, and batch norm is folded into its kernels.

        Args:
            tensors: parameters of the backbone by name, (B, …) each.
            images: uint8.
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
    """Meta-learned φ: the parameters of the backbone and a shift (D_head,) of the head's initialization.

    Args:
        setup: query_images per class are added to the support set in the inner loop; n_way of the tasks, at
            meta-training as well.
        tasks_a_batch: training tasks per outer step.
        inner_steps, adapt_steps: gradient steps on a task at meta-training, and at generation.
        inner_optimizer, inner_lr: of both; "sgd" or "adam".
        inner_images: images per class of one of these steps.

    Raises:
        InputError: the backbone is not conv4.
    """

    needs = ("images", "head", "examples")
    adapts = fixed_n_way = True
    feature_scale: Tensor
    """Divisor of the features ()."""

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
        # the centre of a random initialization is zero, where a two-layer head has no gradient
        self.shift = nn.Parameter(
            initialization.shared.clone() if initialization.drawn else torch.zeros_like(initialization.shared)
        )
        self.register_buffer("feature_scale", torch.ones(()))

    @property
    def learner(self) -> Network:
        """The learner of whole networks."""
        return Network(self.body, linear_classifier(self.initialization.learner, "reptile"), self.feature_scale)

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit the divisor of the features to that of the task source, so that heads have the same units here."""
        assert isinstance(train, ClassTasks) and train.of.images is not None
        some = train.of.first[:IMAGES_AT_ONCE]
        features = embed(self.body, train.of.images[some], batch=IMAGES_AT_ONCE)
        self.feature_scale.copy_(features.norm() / train.of.features[some].norm().to(features))

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Adapt the whole network of each task by gradient steps on its support set: (B, D); deterministic."""
        N, K = context.rows.shape[1:3]
        tasks_at_once = max(1, IMAGES_AT_ONCE // (N * min(K, self.inner_images)))
        return torch.cat([self._adapted(context[tasks]) for tasks in torch.arange(len(context)).split(tasks_at_once)])

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train φ by REPTILE; the row's loss is that of the adapted networks on the next mini-batch."""
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
        """Return the network (B, D) that each task's adaptation starts from."""
        features = embed_there(self.body, _images(context), batch=IMAGES_AT_ONCE) / self.feature_scale
        return self.learner.with_head(self.initialization.centre(context_of(features, context.mask)) + self.shift)

    def _adapted(self, context: Context) -> Tensor:
        batches = self._batches(_images(context), context.present.sum(-1).long())
        return self._adapt(self.initial_weights(context), batches, self.adapt_steps)[0]

    def _adapt(self, w: Tensor, batches: Iterator[Batch], steps: int) -> tuple[Tensor, Tensor]:
        """Return the weights (B, D) after ``steps`` steps from w (B, D), and their losses (B,)."""
        optimizer, lr = self.inner_optimizer, self.inner_lr
        path = adapt(self.learner.loss, w, batches, optimizer=optimizer, lr=lr, record=[steps])
        return path.weights[:, 0], path.losses[:, 0]

    def _batches(self, images: Tensor, shots: Tensor | None = None) -> Iterator[Batch]:
        """Yield mini-batches of ``inner_images`` per class without end, cycling through the images (B, N, M, …).

        ``shots`` (B, N): only the first so many images of a class; None for all.
        """
        B, N, M = images.shape[:3]
        shots = torch.full((B, N), M, device=images.device) if shots is None else shots
        chosen = torch.arange(min(self.inner_images, M), device=images.device)
        task = torch.arange(B, device=images.device)[:, None, None]
        of_class = torch.arange(N, device=images.device)[:, None]
        for step in count():
            some = labelled(images[task, of_class, (chosen + step * len(chosen)) % shots[..., None]])
            yield {"images": some["inputs"], "labels": some["labels"]}


def _images(context: Context) -> Tensor:
    """Return the support images (B, N, K, channels, height, width)."""
    assert context.examples is not None
    return context.examples["images"].unflatten(1, context.rows.shape[1:3])
