"""Fuse class names with a few labelled images: one direction per class for a linear head (zero-shot plus few-shot).

Directions are unit vectors in features centred on a point, as are the features themselves; a head of directions d
predicts the class of the largest ⟨d, f − centre⟩. The direction from the name counts as many images as is best on
meta-val, and the centre moves from the mean of the training classes to the mean of the task's own images as their
number grows, because images from another domain are shifted as a whole. Both are the shrinkage of a conjugate prior
(James & Stein 1961, "Estimation with Quadratic Loss"): a number of observations against the weight of the prior.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.learners.base import Classifier
from ltdi.methods.common.base import Method
from ltdi.tasks.base import Context, batches
from ltdi.tasks.named_class_tasks import NamedClasses
from ltdi.utils.nn import masked_mean
from ltdi.utils.seeding import drawn_images, generator

NAME_WEIGHTS = (math.inf, 0.0, 1.0, 0.25, 0.5, 2.0, 4.0, 8.0, 16.0)
"""Candidates of ``name_weight``. Ties go to the first, so the extremes (name only, images only) come first."""

MEAN_WEIGHTS = (math.inf, 100.0, 30.0, 10.0)
"""Candidates of ``mean_weight``: how many images move the centre half way to their mean."""

CLASSES, MOST_TASKS, QUERIES = 2400, 400, 5
"""Limits of the selection on meta-val: classes over all tasks, tasks, and query images per class."""


@dataclass(frozen=True)
class FusionWeights:
    """Weights of the two priors, in numbers of images."""

    name_weight: float
    """Of the direction from a class's name, against the directions of its images."""
    mean_weight: float
    """Of the mean of the training classes, against the mean of the task's images."""

    def centre(self, mean: Tensor, rows: Tensor, present: Tensor) -> Tensor:
        """Shrink the mean of the task's images towards the mean of the training classes: the centre (B, F).

        Args:
            mean: mean of the training classes (F,).
            rows: support features (B, N, K, F).
            present: 1 for a row, 0 for padding (B, N, K).
        """
        n = present.sum((1, 2))[:, None]
        own = masked_mean(rows.flatten(1, 2), present.flatten(1))
        # 0 for an infinite pull
        return torch.where(n > 0, torch.lerp(mean.expand_as(own), own, n / (n + self.mean_weight)), mean)

    def directions(self, named: Tensor, rows: Tensor, present: Tensor, centre: Tensor) -> Tensor:
        """Return the fused class directions (B, N, F). A class without images keeps the direction of its name.

        Args:
            named: directions of the names (B, N, F).
            rows: support features (B, N, K, F).
            present: 1 for a row, 0 for padding (B, N, K).
            centre: from ``centre`` (B, F).
        """
        if math.isinf(self.name_weight):
            return F.normalize(named, dim=-1)
        of_images = (F.normalize(rows - centre[:, None, None], dim=-1) * present[..., None]).sum(2)
        there = present.sum(-1, keepdim=True) > 0
        both = self.name_weight * F.normalize(named, dim=-1) + of_images
        return F.normalize(torch.where(there, both, named), dim=-1)


NAMES_ONLY, IMAGES_ONLY = FusionWeights(math.inf, math.inf), FusionWeights(0.0, math.inf)
"""The two extremes: class names only; images only, for classes that have any."""


def direction_accuracy(directions: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return the accuracy (B,) of the nearest direction (B, N, F) on centred features (B, M, F), labels (B, M)."""
    return ((features @ directions.mT).argmax(-1) == labels).double().mean(-1)


@torch.no_grad()
def select_fusion(
    name_directions: Callable[[Context], Tensor],
    val_classes: NamedClasses,
    mean: Tensor,
    shots: Tensor,
    stream: torch.Generator,
) -> tuple[FusionWeights, dict[FusionWeights, float]]:
    """Select the fusion weights of the highest mean accuracy on meta-val tasks; return them and all accuracies.

    The extremes, names only and images only, are among the candidates, so that the selected weights are at least as
    good as either on these tasks.

    Args:
        name_directions: context -> directions of the classes' names (B, N, F).
        val_classes: meta-val classes.
        mean: mean of the training classes (F,).
        shots: images per class of the task to be solved (N,); meta-val tasks have the same numbers.
        stream: generator that draws classes and images.
    """
    n_way = min(len(shots), len(val_classes))
    n_tasks = min(MOST_TASKS, max(1, CLASSES // n_way))
    classes = torch.rand(n_tasks, len(val_classes), generator=stream).argsort(1)[:, :n_way]
    # which of these numbers a class has is drawn too: meta-val may hold fewer classes than the task
    shots = shots[torch.rand(n_tasks, len(shots), generator=stream).argsort(1)[:, :n_way]]
    most = int(shots.max())
    support, query = drawn_images(val_classes.counts[classes], most, QUERIES, stream)
    kept = (support >= 0) & (torch.arange(most) < shots[..., None])
    found = dict.fromkeys((FusionWeights(*each) for each in product(NAME_WEIGHTS, MEAN_WEIGHTS)), 0.0)
    for tasks in batches(n_tasks):
        rows, queries = (_rows(val_classes, classes[tasks], places[tasks]) for places in (support, query))
        present, directions = kept[tasks].to(rows), name_directions(val_classes.context(classes[tasks]))
        labels = torch.arange(n_way, device=rows.device).repeat_interleave(QUERIES).expand(len(tasks), -1)
        there = (query[tasks] >= 0).flatten(1).to(rows.device)
        labels = torch.where(there, labels, -1)
        for weights in found:
            centre = weights.centre(mean, rows, present)
            fused = weights.directions(directions, rows, present, centre)
            hits = direction_accuracy(fused, queries.flatten(1, 2) - centre[:, None], labels)
            found[weights] += (hits * labels.shape[1] / there.sum(1)).sum().item() / n_tasks
    return max(found, key=lambda each: found[each]), found


class NameImageFusion:
    """Fuse heads that a method generates from class names with labelled image features.

    Args:
        learner: linear head.
        method: generates a head from class names.
        mean: mean of the training classes (F,), the prior of the centre.
        val_classes: meta-val classes, on which the fusion weights are selected.
    """

    def __init__(self, learner: Classifier, method: Method, mean: Tensor, val_classes: NamedClasses) -> None:
        self.learner, self.method, self.mean, self.val_classes = learner, method, mean, val_classes

    def name_directions(self, context: Context) -> Tensor:
        """Return the unit directions (B, N, F) of the heads generated from the context's class names."""
        w = self.method.generate(context, generator=generator(0, "noise"))
        return F.normalize(self.learner.space.unflatten(w)["output.weight"], dim=-1)

    def __call__(self, w: Tensor, rows: Sequence[Tensor | None], seed: int) -> tuple[Tensor, str]:
        """Fuse a head w (1, D) generated from names with images; return the head (1, D) and a one-line summary.

        Args:
            w: head generated from the class names (1, D).
            rows: for each class its image features (K_n, F), or None for a class without images.
            seed: of the selection on meta-val.
        """
        by_class = [self.mean.new_zeros(0, len(self.mean)) if each is None else each for each in rows]
        shots = torch.tensor([len(each) for each in by_class])
        best, scores = select_fusion(
            self.name_directions, self.val_classes, self.mean, shots, generator(seed, "joined")
        )
        padded = nn.utils.rnn.pad_sequence(by_class, batch_first=True)[None]
        present = (torch.arange(int(shots.max())) < shots[:, None])[None].to(padded)
        weight = self.learner.space.unflatten(w)["output.weight"]
        centre = best.centre(self.mean, padded, present)
        size = weight.norm(dim=-1, keepdim=True).mean(1, keepdim=True)
        joint = size * best.directions(weight, padded, present, centre)
        fused = self.learner.linear(joint, -(joint * centre[:, None]).sum(-1))
        return fused, describe_fusion(best, scores)


def describe_fusion(best: FusionWeights, scores: Mapping[FusionWeights, float]) -> str:
    """Describe the selected weights and their meta-val accuracies in one line for the user."""
    n_images = "all" if math.isinf(best.name_weight) else f"{best.name_weight:g} image{'s' * (best.name_weight != 1)}"
    names, images, both = (f"{100 * scores[each]:.1f}" for each in (NAMES_ONLY, IMAGES_ONLY, best))
    return (
        f"a name counts for {n_images}: on meta-val names alone have {names} % right, the images {images}, both {both};"
        " where images look unlike the run's own, names alone may be better"
    )


def _rows(of: NamedClasses, classes: Tensor, chosen: Tensor) -> Tensor:
    """Return features (B, N, K, F) of the chosen images, −1 for padding, whose features have no meaning."""
    return of.mapped(of.features[of.rows_of(classes, chosen).to(of.features.device)])
