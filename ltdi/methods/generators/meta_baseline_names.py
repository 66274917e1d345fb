"""Meta-Baseline for zero-shot tasks: class centroids are predicted from names instead of averaged from images.

Chen, Liu, Xu, Darrell & Wang 2021, "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning", ICCV.
Published: a network is trained to classify all training classes, then in episodes with the cosine of its features to
the mean features of labelled images. Zero-shot tasks have no labelled images, and publications that list Meta-Baseline
among zero-shot methods do not define it there. Here

- a class's centroid is its row of the initialization, relative to the mean row: predicted from its name;
- the backbone is frozen; trained is a linear map A of its features, the identity at first. The first steps train it
  with a linear classifier of the training classes, which is then dropped, the others by episodes with the logits
  τ · cos(A (f − m), A c_n), where m is the mean row and τ is learned;
- the length of A (f − m) does not affect the prediction, so that the weights are those of a linear head,
  τ Aᵀ A c_n / ‖A c_n‖.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import linear_classifier
from ltdi.initialization.from_names import FromNames
from ltdi.learners.base import cross_entropy
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import TrainedMethod, step_generator
from ltdi.tasks.base import Context, Task, TaskSource
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.errors import InputError
from ltdi.utils.trainer import Row, Training


class MetaBaselineNames(TrainedMethod):
    """Cosine classifier of linearly mapped features and of centroids from class names.

    Args:
        setup: n_way and query_images per class of an episode.
        classify: share of the steps that train the linear classifier.
        temperature: initial τ.

    Raises:
        InputError: the initialization does not predict rows from class names.
    """

    needs = ("head", "names")
    uses_trajectories = False
    mean: Tensor
    """The mean row m of the training classes (F,)."""

    def __init__(self, initialization: Initialization, setup: Setup, *, classify: float, temperature: float) -> None:
        super().__init__(initialization, setup)
        if not isinstance(initialization, FromNames):
            raise InputError(
                "method.name = 'meta_baseline_names' needs an initialization from class names, and"
                f" trajectories.initialization = {initialization.kind} is none; set it to from_names"
            )
        self.rows = initialization
        self.classify, self.query_images = classify, setup.meta.query_images
        self.head = linear_classifier(initialization.learner, "meta_baseline_names")
        width = self.head.n_features
        self.map = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.map.weight)
        self.classifier = nn.Linear(width, setup.n_classes)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        self.register_buffer("mean", torch.zeros(width))

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit the coordinates and store the mean row."""
        super().prepare(train, trajectories, val)
        self.mean.copy_(self.rows.table.mean)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the linear head τ Aᵀ A c_n / ‖A c_n‖ as weights (B, D); deterministic."""
        centroids = F.normalize(self.map(self.centroids(context)), dim=-1)
        weight = self.log_temperature.exp() * centroids @ self.map.weight
        return self.head.linear(weight, -(weight @ self.mean))

    def centroids(self, context: Context) -> Tensor:
        """Return each class's row of the initialization, relative to the mean row: (B, N, F)."""
        if self.rows.from_own and context.known is not None:
            return self.rows.table.centred[context.known]
        return self.rows.directions(context)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Return the cross-entropy of cosine logits on the query set of each task (B,)."""
        logits = self.cosines(task.query["inputs"], self.map(self.centroids(task.context)))
        return cross_entropy(logits, task.query["labels"])

    def cosines(self, inputs: Tensor, mapped: Tensor) -> Tensor:
        """Return τ · cos of the mapped inputs (B, M, F) and mapped centroids (B, N, F): (B, M, N)."""
        features = F.normalize(self.map(inputs - self.mean), dim=-1)
        return self.log_temperature.exp() * features @ F.normalize(mapped, dim=-1).mT

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train by classification, then by episodes; the row's loss is that of the current phase."""
        while training.step < round(self.classify * training.steps):
            stream = step_generator(seed, training.step)
            names = train.draw(1, stream, n_way=train.n_classes)
            query = train.new(names, stream, n_query=self.query_images).query
            logits = self.classifier(self.map(query["inputs"] - self.mean))[..., names[0].to(query["inputs"].device)]
            loss = cross_entropy(logits, query["labels"]).mean()
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.detach()}
        yield from super().meta_train(training, train, trajectories, seed=seed)
