"""Meta-Baseline (Chen, Liu, Xu, Darrell & Wang 2021, "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot
Learning", ICCV): the whole network learns to classify, then to tell classes by the cosine to their centroids.

The first steps train a linear classifier of all meta-training classes, which is then dropped; the others train
episodes: logits τ · cos(f(x), c_n), where c_n is the mean feature of class n's support images, and τ is learned.

Differs from the published form: classification goes on from the pre-trained body, for the budget is small
(published: from scratch); images are not augmented beyond the source's own; one Adam with one schedule runs both
phases (published: SGD, a schedule each), so τ is learned as its logarithm, whose steps do not depend on its size.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.bodies.pretraining import embed
from ltdi.methods.base import Method
from ltdi.seeding import generator as named_generator
from ltdi.tasks import Query, Support, TaskSource, labelled
from ltdi.training import Training
from ltdi.trajectories import Start, Trajectories
from ltdi.weights import WeightSpace

IMAGES_AT_ONCE = 128
"""What one pass of the finished body holds in memory."""


class MetaBaseline(Method):
    """Generates centroids (N, F) in the features of a body of its own.

    Args:
        meta: query_images a class in an episode.
        n_classes: of the meta-training images.
        classify: the share of the steps that are classification.
        images_a_batch: in a step of classification.
        n_way: classes of an episode.
        tasks_a_batch: in a step of episodes.
        temperature: τ at the start.
    """

    takes = ("meta", "body", "n_way", "n_classes")
    from_images = True

    def __init__(
        self,
        start: Start,
        *,
        meta: Mapping,
        body: nn.Module,
        n_way: int,
        n_classes: int,
        classify: float,
        images_a_batch: int,
        tasks_a_batch: int,
        temperature: float,
    ) -> None:
        super().__init__(start)
        self.n_way, self.query_images, self.tasks_a_batch = n_way, meta["query_images"], tasks_a_batch
        self.classify, self.images_a_batch = classify, images_a_batch
        self.body = deepcopy(body).requires_grad_()
        self.classifier = nn.Linear(start.head.n_features, n_classes)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        self.centroids = WeightSpace({"centroid.weight": (None, start.head.n_features)})

    @property
    def space(self) -> WeightSpace:
        return self.centroids

    def generate(self, support: Support, *, generator: torch.Generator) -> Tensor:
        return self.centroids.flatten(
            {"centroid.weight": Support(self._finished(support.images), mask=support.mask).class_means}
        )

    def logits(self, w: Tensor, query: Query) -> Tensor:
        return self.scores(self.centroids.unflatten(w)["centroid.weight"], labelled(self._finished(query.images))[0])

    def scores(self, centroids: Tensor, features: Tensor) -> Tensor:
        """τ · cos of features (B, M, F) and centroids (B, N, F): (B, M, N)."""
        return self.log_temperature.exp() * F.normalize(features, dim=-1) @ F.normalize(centroids, dim=-1).mT

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[dict[str, float]]:
        """The row's loss is that of its phase: it jumps between the two."""
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            classifies = training.step < round(self.classify * training.steps)
            loss = self.classification_loss(train, stream) if classifies else self.episodic_loss(train, stream)
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.item()}

    def classification_loss(self, train: TaskSource, stream: torch.Generator) -> Tensor:
        n_classes, n_images = train.images.shape[:2]
        labels = torch.randint(n_classes, (self.images_a_batch,), generator=stream).to(train.images.device)
        chosen = torch.randint(n_images, (self.images_a_batch,), generator=stream).to(train.images.device)
        return F.cross_entropy(self.classifier(self._learning(train.images[labels, chosen])), labels)

    def episodic_loss(self, train: TaskSource, stream: torch.Generator) -> Tensor:
        task = train.of_classes(
            train.draw_classes(self.tasks_a_batch, stream, n_way=self.n_way), stream, n_query=self.query_images
        )
        support, query = task.support.images, task.query.images
        features = self._learning(torch.cat([support, query], dim=2)).split([support.shape[2], query.shape[2]], dim=2)
        inputs, labels = labelled(features[1])
        return F.cross_entropy(self.scores(Support(features[0]).class_means, inputs).flatten(0, 1), labels.flatten())

    def _learning(self, images: Tensor) -> Tensor:
        """Features (…, F) with the batch's own statistics in batch norm; moves the running ones."""
        self.body.train()
        features = self.body(images.flatten(0, -4).float() / 255)
        return features.unflatten(0, images.shape[:-3])

    def _finished(self, images: Tensor) -> Tensor:
        """Features (…, F) with the running statistics: an image's do not depend on the others."""
        return embed(self.body, images, batch=IMAGES_AT_ONCE).to(images.device)
