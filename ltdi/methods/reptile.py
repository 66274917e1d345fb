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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.adaptation import adapt
from ltdi.bodies.pretraining import embed
from ltdi.methods.base import Method
from ltdi.seeding import generator as named_generator
from ltdi.tasks import Query, Support, TaskSource, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories
from ltdi.weights import WeightSpace

IMAGES_AT_ONCE = 128
"""What one pass holds in memory; a pass over one task is never split."""


class Reptile(Method):
    """φ: the parameters of ``body`` and the ``shift`` (D_head,) of the head from its start.

    Args:
        meta: query_images a class join the support in the inner loop.
        n_way: classes of a task, at meta-training as well.
        tasks_a_batch: training tasks of a step.
        inner_steps, adapt_steps: gradient steps on a task at meta-training, and at generation.
        inner_images: images a class in one of these steps.
    """

    takes = ("meta", "body", "n_way")
    adapts = one_size = from_images = True

    def __init__(
        self,
        start: Start,
        *,
        meta: Mapping,
        body: nn.Module,
        n_way: int,
        tasks_a_batch: int,
        inner_steps: int,
        adapt_steps: int,
        inner_optimizer: str,
        inner_lr: float,
        inner_images: int,
    ) -> None:
        super().__init__(start)
        self.n_way, self.query_images, self.tasks_a_batch = n_way, meta["query_images"], tasks_a_batch
        self.inner_steps, self.adapt_steps, self.inner_images = inner_steps, adapt_steps, inner_images
        self.inner = {"optimizer": inner_optimizer, "lr": inner_lr}
        self.body = deepcopy(body).requires_grad_()
        # a fresh start's centre is zero, where a head of two layers has no gradient
        self.shift = nn.Parameter(start.shared.clone() if start.kind == "fresh" else torch.zeros_like(start.shared))
        self.register_buffer("feature_scale", torch.ones(()))
        self.network = WeightSpace(
            {name: value.shape for name, value in body.named_parameters()} | start.head.space.shapes
        )

    @property
    def space(self) -> WeightSpace:
        return self.network

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """The constant by which the sources divide the body's features, so that heads mean the same here."""
        some = slice(IMAGES_AT_ONCE)
        own = embed(self.body, train.images[some, 0], batch=IMAGES_AT_ONCE)
        self.feature_scale.copy_(own.norm() / train.features[some, 0].norm().to(own))

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        N, K = support.images.shape[1:3]
        tasks_at_once = max(1, IMAGES_AT_ONCE // (N * min(K, self.inner_images)))
        return torch.cat([self._adapt(support[tasks]) for tasks in torch.arange(len(support)).split(tasks_at_once)])

    def logits(self, w: Tensor, query: Query) -> Tensor:
        images = _labelled_images(query.images)[0].split(max(1, IMAGES_AT_ONCE // len(w)), dim=1)
        return torch.cat([self.forward(w, part) for part in images], dim=1)

    def forward(self, w: Tensor, images: Tensor) -> Tensor:
        """w (B, D), images (B, M, channels, height, width) uint8 -> logits (B, M, N)."""
        tensors = self.network.unflatten(w)
        return self.head(self.head.space.flatten(tensors), self.features(tensors, images))

    def features(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The features (B, M, F) of Conv4 in evaluation mode, each task's parameters (B, …) on its own images.

        The tasks are the groups of one convolution, and batch norm is folded into its kernels.
        """
        x = images.transpose(0, 1).flatten(1, 2).float() / 255
        for i, (_, norm, *_) in enumerate(self.body.blocks):
            gain = tensors[f"blocks.{i}.1.weight"] / (norm.running_var + norm.eps).sqrt()
            kernel = gain[..., None, None, None] * tensors[f"blocks.{i}.0.weight"]
            bias = tensors[f"blocks.{i}.1.bias"] - gain * norm.running_mean
            x = F.conv2d(x, kernel.flatten(0, 1), bias.flatten(), padding=1, groups=len(gain))
            x = F.max_pool2d(x, 2).relu()
        return x.mean((2, 3)).unflatten(1, (len(images), -1)).transpose(0, 1) / self.feature_scale

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[dict[str, float]]:
        """The row's loss is that after the inner steps, on the images of the step that would be next."""
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            task = train.of_classes(
                train.draw_classes(self.tasks_a_batch, stream, n_way=self.n_way), stream, n_query=self.query_images
            )
            images = torch.cat([task.support.images, task.query.images], dim=2)
            order = torch.randperm(images.shape[2], generator=stream)
            first = self.first(task.support)
            path = adapt(
                self.forward, first, self._batches(images[:, :, order]), **self.inner, record=[self.inner_steps]
            )
            moved = self.network.unflatten((first - path.weights[:, 0]).mean(0))
            for name, parameter in self.body.named_parameters():
                parameter.grad = moved[name]
            self.shift.grad = self.head.space.flatten(moved)
            training.descend()
            yield {"step": training.step, "loss": path.losses.mean().item()}

    @torch.no_grad()
    def first(self, support: Support) -> Tensor:
        """The initialisation of each task (B, D)."""
        B = len(support)
        features = embed(self.body, support.images, batch=IMAGES_AT_ONCE).to(support.features) / self.feature_scale
        body = {name: value.expand(B, *value.shape) for name, value in self.body.named_parameters()}
        return self.network.flatten(
            body | self.head.space.unflatten(self.start.centre(Support(features, mask=support.mask)) + self.shift)
        )

    def _adapt(self, support: Support) -> Tensor:
        path = adapt(
            self.forward,
            self.first(support),
            self._batches(support.images, support.present.sum(-1).long()),
            **self.inner,
            record=[self.adapt_steps],
        )
        return path.weights[:, 0]

    def _batches(self, images: Tensor, shots: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """``inner_images`` of each class in turn, with their labels, without an end: of the images (B, N, M, …) the first
        ``shots`` (B, N) of a class, or all."""
        B, N, M = images.shape[:3]
        shots = torch.full((B, N), M, device=images.device) if shots is None else shots
        chosen = torch.arange(min(self.inner_images, M), device=images.device)
        task, of_class = (
            torch.arange(B, device=images.device)[:, None, None],
            torch.arange(N, device=images.device)[:, None],
        )
        for step in count():
            yield _labelled_images(images[task, of_class, (chosen + step * len(chosen)) % shots[..., None]])


def _labelled_images(images: Tensor) -> tuple[Tensor, Tensor]:
    """images (B, N, M, …), a class a row -> (B, N·M, …) and their labels (B, N·M)."""
    flat, labels = labelled(images.flatten(3))
    return flat.unflatten(2, images.shape[3:]), labels
