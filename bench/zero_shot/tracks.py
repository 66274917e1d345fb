"""What ``python -m bench zero-shot`` adds to names: unlabelled images of the task, or a few labelled ones.

A task's head is a unit direction for each class here, features are of unit length around the mean that the
initialization's classifier has; both as ``cosines`` has them.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.zero_shot.data import Split
from ltdi.initialization.closed_form import linear_classifier
from ltdi.methods.common.base import Method
from ltdi.methods.common.name_image_fusion import (
    IMAGES_ONLY,
    NAMES_ONLY,
    NameImageFusion,
    direction_accuracy,
    select_fusion,
)
from ltdi.tasks.base import batches
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.utils.seeding import generator

SHARPNESSES, OWN = (5.0, 10.0, 20.0, 40.0), (0.0, 0.25, 0.5, 0.75)
PASSES = 10
SHOTS = (1, 5)
NAMES, TESTS = ("softmax_rows", "kernel_ridge", "ltdi"), ("cifar", "tiny")


def matched(right: Tensor) -> float:
    """The largest share (N, N) of images of class i that are called j, over all ways to give every name one class."""
    from scipy.optimize import linear_sum_assignment  # of the extra `bench`

    return float(right[linear_sum_assignment(right.numpy(), maximize=True)].sum())


def directions(method: Method, source: NamedClassTasks, seed: int) -> Tensor:
    """Of every task's head (M, N, F)."""
    parts = []
    for tasks in batches(len(source)):
        w = method.generate(source.context(tasks), generator=generator(seed, "noise"))
        parts.append(F.normalize(method.learner.space.unflatten(w)["output.weight"], dim=-1))
    return torch.cat(parts)


def queries(source: NamedClassTasks, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The images of every task around the mean, of unit length (M, N·Q, F), and their labels (M, N·Q)."""
    task = source.batch(torch.arange(len(source))).query
    return F.normalize(task["inputs"] - mean, dim=-1), task["labels"]


def with_unlabelled(heads: Tensor, images: Tensor, sharpness: float, own: float) -> Tensor:
    """Directions (M, N, F) after soft k-means on the images (M, Q, F) of the task from the head: of each the mean of
    the images by how probable they are, and a share that stays its ``own``."""
    found = heads
    for _ in range(PASSES):
        shares = (sharpness * images @ found.mT).softmax(-1)
        found = F.normalize(own * heads + (1 - own) * F.normalize(shares.mT @ images, dim=-1), dim=-1)
    return found


def right_matched(heads: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Accuracy after the names are given to the classes that fit best (M,)."""
    n = heads.shape[1]
    predicted, found = (images @ heads.mT).argmax(-1), []
    for answers, truth in zip(predicted, labels):
        counts = torch.bincount(truth * n + answers, minlength=n * n).view(n, n).double()
        found.append(matched(counts / len(truth)))
    return torch.tensor(found, dtype=torch.float64)


def unlabelled(method: Method, split: Split, mean: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Test -> how it is scored -> accuracies (M,); sharpness and the share of its own chosen on meta-val."""
    heads, val = directions(method, split["meta_val"], seed), queries(split["meta_val"], mean)
    hparams = list(product(SHARPNESSES, OWN))
    best = max(hparams, key=lambda each: direction_accuracy(with_unlabelled(heads, val[0], *each), *val).mean().item())
    found = {}
    for test in TESTS:
        heads, of = directions(method, split[test], seed), queries(split[test], mean)
        moved = with_unlabelled(heads, of[0], *best)
        found[test] = {"as it is": direction_accuracy(moved, *of), "matched": right_matched(moved, *of)}
        found[test]["no image, matched"] = right_matched(heads, *of)
    return found


def fused(
    method: Method, split: Split, labelled: dict[str, Tensor], seen: FeatureMap, mean: Tensor, seed: int
) -> dict[str, dict[str, Tensor]]:
    """Names and K images of each class, or of every second one, as ``ltdi classify --names … --examples …`` fuses them:
    test -> "K which" -> accuracies (M,). How is chosen on meta-val tasks of as many classes and images."""
    learner, found = linear_classifier(method.learner, "joined"), {}
    joiner = NameImageFusion(learner, method, mean, split["meta_val"].of)
    for test in TESTS:
        named, row = directions(method, split[test], seed), {}
        query = split[test].batch(torch.arange(len(split[test]))).query
        for shots, half in product(SHOTS, (False, True)):
            key, counts = f"{shots}{' of half' if half else ''}", torch.full((named.shape[1],), shots)
            counts[1::2] *= not half
            best, _ = select_fusion(joiner.name_directions, joiner.val_classes, mean, counts, generator(seed, "joined"))
            rows = seen(labelled[test][:, :shots])[split[test].classes]
            present = (counts > 0)[None, :, None].expand(rows.shape[:3]).to(rows)
            for way, fusion in {"names": NAMES_ONLY, "images": IMAGES_ONLY, "both": best}.items():
                centre = fusion.centre(mean, rows, present)
                made = fusion.directions(named, rows, present, centre)
                images = F.normalize(query["inputs"] - centre[:, None], dim=-1)
                row[f"{key} {way}"] = direction_accuracy(made, images, query["labels"])
            row[f"{key} worth"] = torch.tensor([best.name_weight]).clamp(max=999).double()
        found[test] = row
    return found


def measure(
    found: dict,
    name: str,
    method: Method,
    split: Split,
    labelled: dict[str, Tensor],
    seen: FeatureMap,
    mean: Tensor,
    seed: int,
) -> None:
    """Both, into ``found``: "<test> unlabelled" and "<test> joined" -> "<method> <which>" -> a value a task."""
    kinds = {"unlabelled": unlabelled(method, split, mean, seed)}
    kinds["joined"] = fused(method, split, labelled, seen, mean, seed)
    for kind, of_test in kinds.items():
        for test, row in of_test.items():
            found[f"{test} {kind}"] |= {f"{name} {which}": values for which, values in row.items()}
