"""Names and a few images of some classes, joined: a class's direction from both.

Directions are of unit length and seen from a centre, as are features; a head of directions d answers with the class of
the largest ⟨d, f − centre⟩. A name counts for as many images as meta-val shows it to be worth, so that the more images
a class has, the more it is theirs; and the centre, the mean of what is known, is pulled to the mean of the task's own
images by how many there are, for images of another look lie elsewhere as a whole. Both are the conjugate estimate's
shrinkage (James & Stein 1961, "Estimation with Quadratic Loss"): so many observations against a prior's weight.
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

WORTHS = (math.inf, 0.0, 1.0, 0.25, 0.5, 2.0, 4.0, 8.0, 16.0)
"""How many images a name is worth, from all to none; of equally good ones the first is taken, so the ends are first."""

PULLS = (math.inf, 100.0, 30.0, 10.0)
"""How many images of a task pull the centre half way to their mean: from none to few."""

CLASSES, MOST_TASKS, QUERIES = 2400, 400, 5
"""How many classes of how many tasks are chosen on, at most, and by how many images each is asked."""


@dataclass(frozen=True)
class Joining:
    """``worth``: of a name, in images; ``pull``: of the images on the centre."""

    worth: float
    pull: float

    def centre(self, mean: Tensor, rows: Tensor, present: Tensor) -> Tensor:
        """(B, F) from the mean of what is known (F,) and rows (B, N, K, F), of which ``present`` (B, N, K) are
        there."""
        n = present.sum((1, 2))[:, None]
        own = masked_mean(rows.flatten(1, 2), present.flatten(1))
        # 0 for an infinite pull
        return torch.where(n > 0, torch.lerp(mean.expand_as(own), own, n / (n + self.pull)), mean)

    def directions(self, named: Tensor, rows: Tensor, present: Tensor, centre: Tensor) -> Tensor:
        """From those of the names (B, N, F): (B, N, F). A class without images keeps its name's."""
        if math.isinf(self.worth):
            return F.normalize(named, dim=-1)
        of_images = (F.normalize(rows - centre[:, None, None], dim=-1) * present[..., None]).sum(2)
        there = present.sum(-1, keepdim=True) > 0
        both = self.worth * F.normalize(named, dim=-1) + of_images
        return F.normalize(torch.where(there, both, named), dim=-1)


NAMES, IMAGES = Joining(math.inf, math.inf), Joining(0.0, math.inf)
"""The names alone; the images alone, where there are any."""


def right(directions: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The share of features (B, M, F), seen from the centre, whose class (B, M) has the nearest direction (B,)."""
    return ((features @ directions.mT).argmax(-1) == labels).double().mean(-1)


@torch.no_grad()
def chosen(
    named: Callable[[Context], Tensor], of: NamedClasses, mean: Tensor, shots: Tensor, stream: torch.Generator
) -> tuple[Joining, dict[Joining, float]]:
    """The joining with the highest mean accuracy on tasks of meta-val classes whose numbers of images are those of the
    task that is asked (N,), and the accuracies of all; the ends are among them, so that it is worse than neither there.

    Args:
        named: the directions of names' heads (B, N, F).
        of: the meta-val classes.
        mean: of what is known (F,).
    """
    n_way = min(len(shots), len(of))
    n_tasks = min(MOST_TASKS, max(1, CLASSES // n_way))
    classes = torch.rand(n_tasks, len(of), generator=stream).argsort(1)[:, :n_way]
    # which of the asked numbers a class has is drawn too: there may be fewer classes than asked ones
    shots = shots[torch.rand(n_tasks, len(shots), generator=stream).argsort(1)[:, :n_way]]
    most = int(shots.max())
    support, query = drawn_images(of.counts[classes], most, QUERIES, stream)
    kept = (support >= 0) & (torch.arange(most) < shots[..., None])
    found = dict.fromkeys((Joining(*each) for each in product(WORTHS, PULLS)), 0.0)
    for tasks in batches(n_tasks):
        rows, asked = (_rows(of, classes[tasks], places[tasks]) for places in (support, query))
        present, directions = kept[tasks].to(rows), named(of.context(classes[tasks]))
        labels = torch.arange(n_way, device=rows.device).repeat_interleave(QUERIES).expand(len(tasks), -1)
        there = (query[tasks] >= 0).flatten(1).to(rows.device)
        labels = torch.where(there, labels, -1)
        for joining in found:
            centre = joining.centre(mean, rows, present)
            made = joining.directions(directions, rows, present, centre)
            hits = right(made, asked.flatten(1, 2) - centre[:, None], labels)
            found[joining] += (hits * labels.shape[1] / there.sum(1)).sum().item() / n_tasks
    return max(found, key=lambda each: found[each]), found


class Joiner:
    """Joins heads of names that a method generates with rows of images.

    Args:
        learner: a linear head.
        mean: of what is known (F,), from which directions are seen.
        of: the meta-val classes.
    """

    def __init__(self, learner: Classifier, method: Method, mean: Tensor, of: NamedClasses) -> None:
        self.learner, self.method, self.mean, self.of = learner, method, mean, of

    def named(self, context: Context) -> Tensor:
        """The directions of names' heads (B, N, F)."""
        w = self.method.generate(context, generator=generator(0, "noise"))
        return F.normalize(self.learner.space.unflatten(w)["output.weight"], dim=-1)

    def __call__(self, w: Tensor, rows: Sequence[Tensor | None], seed: int) -> tuple[Tensor, str]:
        """The head w (1, D) of names with the rows (K_n, F) of each class, or None: (1, D); and what meta-val says."""
        by_class = [self.mean.new_zeros(0, len(self.mean)) if each is None else each for each in rows]
        shots = torch.tensor([len(each) for each in by_class])
        best, scores = chosen(self.named, self.of, self.mean, shots, generator(seed, "joined"))
        padded = nn.utils.rnn.pad_sequence(by_class, batch_first=True)[None]
        present = (torch.arange(int(shots.max())) < shots[:, None])[None].to(padded)
        weight = self.learner.space.unflatten(w)["output.weight"]
        centre = best.centre(self.mean, padded, present)
        size = weight.norm(dim=-1, keepdim=True).mean(1, keepdim=True)
        joint = size * best.directions(weight, padded, present, centre)
        made = self.learner.linear(joint, -(joint * centre[:, None]).sum(-1))
        return made, told(best, scores)


def told(best: Joining, scores: Mapping[Joining, float]) -> str:
    """For whom has the head."""
    worth = "all" if math.isinf(best.worth) else f"{best.worth:g} image{'' if best.worth == 1 else 's'}"
    names, images, both = (f"{100 * scores[each]:.1f}" for each in (NAMES, IMAGES, best))
    return (
        f"a name counts for {worth}: on meta-val names alone have {names} % right, the images {images}, both {both};"
        " where images look unlike the run's own, names alone may be better"
    )


def _rows(of: NamedClasses, classes: Tensor, chosen: Tensor) -> Tensor:
    """Features (B, N, K, F) as tasks have them; what −1 stands for has no meaning."""
    return of.mapped(of.features[of.rows_of(classes, chosen).to(of.features.device)])
