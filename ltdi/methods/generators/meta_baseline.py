"""Meta-Baseline: the whole network is trained to classify, then in episodes with cosine logits to class centroids.

Chen, Liu, Xu, Darrell & Wang 2021, "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning", ICCV. The
first steps train a linear classifier of all meta-training classes, which is then dropped; the others train episodes:
logits τ · cos(f(x), c_n), where c_n is the mean feature of class n's support images, and τ is learned.

Differences from the published form: classification continues from the pretrained backbone, because the budget is small
(published: from scratch); images have no augmentation beyond that of the task source; one Adam with one schedule runs
both phases (published: SGD, a schedule each), so τ is learned as its logarithm, whose steps do not depend on its size.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.bodies.embedding import embed_there
from ltdi.initialization import Initialization
from ltdi.learners.base import Learner, cross_entropy
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.tasks.batch import Batch
from ltdi.tasks.class_tasks import ClassTasks
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.metrics import accuracy
from ltdi.utils.nn import masked_mean
from ltdi.utils.seeding import generator as named_generator
from ltdi.utils.trainer import Row, Training

IMAGES_AT_ONCE = 128
"""Images per forward pass of the trained backbone."""


class Centroids(Learner):
    """A learner whose weights are class centroids (N, F): logits τ · cos(f(x), c_n) of images x.

    Args:
        body: backbone f.
        n_features: F of its features.
        log_temperature: log τ ().
    """

    scored_by = "accuracy"
    inputs_together, from_images = IMAGES_AT_ONCE, True

    def __init__(self, body: nn.Module, n_features: int, log_temperature: Tensor) -> None:
        self.body, self.n_numbers, self.log_temperature = body, n_features, log_temperature
        self.space = WeightSpace({"centroid.weight": (None, n_features)})

    def facts(self) -> dict[str, Any]:
        """Return the learner's name; it is never rebuilt from a file."""
        return {"name": "centroids"}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Draw normal centroids (n_tasks, D)."""
        return torch.randn(n_tasks, self.space.dim(n_way), generator=generator, device=generator.device)

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of each task (B,) on the batch's images."""
        return cross_entropy(self.logits(w, batch["images"]), batch["labels"])

    def score(self, w: Tensor, batch: Batch) -> Tensor:
        """Return the accuracy of each task (B,) on the batch's images."""
        return accuracy(self.logits(w, batch["images"]), batch["labels"])

    def logits(self, w: Tensor, images: Tensor) -> Tensor:
        """Classify images (B, M, channels, height, width) with centroids w (B, D): logits (B, M, N)."""
        return self.cosines(self.space.unflatten(w)["centroid.weight"], self.features(images))

    def cosines(self, centroids: Tensor, features: Tensor) -> Tensor:
        """Return τ · cos of features (B, M, F) and centroids (B, N, F): (B, M, N)."""
        return self.log_temperature.exp() * F.normalize(features, dim=-1) @ F.normalize(centroids, dim=-1).mT

    def features(self, images: Tensor) -> Tensor:
        """Embed images (…, channels, height, width) in evaluation mode: (…, F), independent of each other."""
        return embed_there(self.body, images, batch=IMAGES_AT_ONCE)


class MetaBaseline(Method):
    """Fine-tune a copy of the backbone; generate the centroids (N, F) of a task's classes in its features.

    Args:
        setup: query_images per class and n_way of an episode; n_classes of meta-training.
        classify: share of the steps that train the linear classifier.
        images_a_batch: images per classification step.
        tasks_a_batch: episodes per step.
        temperature: initial τ.
    """

    needs = ("images", "head", "examples")

    def __init__(
        self,
        initialization: Initialization,
        setup: Setup,
        *,
        classify: float,
        images_a_batch: int,
        tasks_a_batch: int,
        temperature: float,
    ) -> None:
        super().__init__(initialization, setup)
        self.n_way, self.query_images, self.tasks_a_batch = setup.n_way, setup.meta.query_images, tasks_a_batch
        self.classify, self.images_a_batch = classify, images_a_batch
        assert setup.body is not None
        self.body = deepcopy(setup.body).requires_grad_()
        self.classifier = nn.Linear(initialization.learner.n_numbers, setup.n_classes)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())

    @property
    def learner(self) -> Centroids:
        """The learner of centroids in the features of the fine-tuned backbone."""
        return Centroids(self.body, self.initialization.learner.n_numbers, self.log_temperature)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return the mean features of each class's support images as centroids (B, D); deterministic."""
        assert context.examples is not None
        features = self.learner.features(context.examples["images"]).unflatten(1, context.rows.shape[1:3])
        return self.space.flatten({"centroid.weight": masked_mean(features, context.present)})

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train by classification, then by episodes; the row's loss is that of the current phase."""
        assert isinstance(train, ClassTasks)
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            classifies = training.step < round(self.classify * training.steps)
            loss = self.classification_loss(train, stream) if classifies else self.episodic_loss(train, stream)
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.detach()}

    def classification_loss(self, train: ClassTasks, stream: torch.Generator) -> Tensor:
        """Return the cross-entropy () of the linear classifier on images of random training classes."""
        images, counts, first = train.of.images, train.of.counts, train.of.first
        assert images is not None
        labels = torch.randint(len(counts), (self.images_a_batch,), generator=stream)
        chosen = torch.randint(int(counts.max()), (self.images_a_batch,), generator=stream)
        some = images[(first[labels] + chosen % counts[labels]).to(images.device)]
        return F.cross_entropy(self.classifier(self._train_features(some)), labels.to(images.device))

    def episodic_loss(self, train: ClassTasks, stream: torch.Generator) -> Tensor:
        """Return the cross-entropy () of cosine logits on the query sets of new tasks."""
        task = train.new(train.draw(self.tasks_a_batch, stream, n_way=self.n_way), stream, n_query=self.query_images)
        context, query = task.context, task.query
        assert context.examples is not None
        N, K = context.rows.shape[1:3]
        images = [context.examples["images"].unflatten(1, (N, -1)), query["images"].unflatten(1, (N, -1))]
        features = self._train_features(torch.cat(images, dim=2))
        support, queries = features.split([K, features.shape[2] - K], dim=2)
        logits = self.learner.cosines(masked_mean(support, context.present), queries.flatten(1, 2))
        return F.cross_entropy(logits.flatten(0, 1), query["labels"].flatten())

    def _train_features(self, images: Tensor) -> Tensor:
        """Embed images in training mode: (…, F), with batch norm's batch statistics; updates the running ones."""
        self.body.train()
        features = self.body(images.flatten(0, -4).float() / 255)
        return features.unflatten(0, images.shape[:-3])
