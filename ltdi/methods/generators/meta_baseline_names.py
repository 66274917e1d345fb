"""Meta-Baseline (Chen, Liu, Xu, Darrell & Wang 2021, "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot
Learning", ICCV) of classes that are names alone.

Published: a network learns to classify all training classes, then, in episodes, to tell classes by the cosine of its
features to their centroids, means of labelled images. A task of names has none of these, and the publications that
print Meta-Baseline among zero-shot methods do not say what it does there. Here

- a class's centroid is the row that the start has for it, around the mean row: what its name says of its images;
- the body is frozen, and what learns is a linear map A of its features, the identity at first; the first steps train it
  with a linear classifier of the training classes, which is then dropped, the others by episodes with the logits
  τ · cos(A (f − m), A c_n), where m is the mean row and τ is learned;
- the length of A (f − m) changes no answer, so that the weights are those of a linear head, τ Aᵀ A c_n / ‖A c_n‖.
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
    """
    Args:
        setup: n_way and query_images a class of an episode.
        classify: the share of the steps that are classification.
        temperature: τ at the start.
    """

    needs = ("head", "names")
    uses_trajectories = False
    mean: Tensor

    def __init__(self, initialization: Initialization, setup: Setup, *, classify: float, temperature: float) -> None:
        super().__init__(initialization, setup)
        if not isinstance(initialization, FromNames):
            raise InputError(
                f"method.name = 'meta_baseline_names' has its centroids from a start of names, and"
                f" trajectories.initialization ="
                f" {initialization.kind} is none; set trajectories.initialization = described"
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
        super().prepare(train, trajectories, val)
        self.mean.copy_(self.rows.table.mean)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        centroids = F.normalize(self.map(self.centroids(context)), dim=-1)
        weight = self.log_temperature.exp() * centroids @ self.map.weight
        return self.head.linear(weight, -(weight @ self.mean))

    def centroids(self, context: Context) -> Tensor:
        """What the start says of each class, around the mean row (B, N, F)."""
        if self.rows.from_own and context.known is not None:
            return self.rows.table.centred[context.known]
        return self.rows.directions(context)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Of episodes (B,)."""
        logits = self.cosines(task.query["inputs"], self.map(self.centroids(task.context)))
        return cross_entropy(logits, task.query["labels"])

    def cosines(self, inputs: Tensor, mapped: Tensor) -> Tensor:
        """τ · cos of features (B, M, F) and mapped centroids (B, N, F): (B, M, N)."""
        features = F.normalize(self.map(inputs - self.mean), dim=-1)
        return self.log_temperature.exp() * features @ F.normalize(mapped, dim=-1).mT

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """The row's loss is that of its phase: it jumps between the two."""
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
