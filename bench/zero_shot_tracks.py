"""What ``python -m bench zero-shot`` adds to names: unlabelled images of the task, or a few labelled ones.

A task's head is a unit direction for each class here, features are of unit length around the mean that the start's
classifier has; both as ``cosines`` has them.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.text import percent, table
from bench.zero_shot_data import Split
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
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.seeding import generator

SHARPNESSES, OWN = (5.0, 10.0, 20.0, 40.0), (0.0, 0.25, 0.5, 0.75)
PASSES = 10
SHOTS = (1, 5)
NAMES, WAYS = ("softmax_rows", "kernel_ridge", "ltdi"), ("names", "images", "both")


def matched(right: Tensor) -> float:
    """The largest share (N, N) of images of class i that are called j, over all ways to give every name one class: the
    Hungarian algorithm in its O(N³) form with potentials."""
    n = len(right)
    cost = torch.nn.functional.pad(-right.double(), (1, 0, 1, 0)).tolist()
    u, v = [0.0] * (n + 1), [0.0] * (n + 1)
    of = [0] * (n + 1)
    for i in range(1, n + 1):
        of[0], j0 = i, 0
        least, way, used = [float("inf")] * (n + 1), [0] * (n + 1), [False] * (n + 1)
        while of[j0]:
            used[j0] = True
            delta, j1 = float("inf"), 0
            for j in range(1, n + 1):
                if not used[j]:
                    now = cost[of[j0]][j] - u[of[j0]] - v[j]
                    if now < least[j]:
                        least[j], way[j] = now, j0
                    if least[j] < delta:
                        delta, j1 = least[j], j
            for j in range(n + 1):
                if used[j]:
                    u[of[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            j0 = j1
        while j0:
            of[j0] = of[way[j0]]
            j0 = way[j0]
    return float(sum(right[of[j] - 1, j - 1] for j in range(1, n + 1)))


def directions(method: Method, source: NamedClassTasks, seed: int) -> Tensor:
    """Of every task's head (M, N, F)."""
    parts = []
    for tasks in batches(len(source)):
        w = method.generate(source.context(tasks), generator=generator(seed, "noise"))
        parts.append(F.normalize(method.learner.space.unflatten(w)["output.weight"], dim=-1))
    return torch.cat(parts)


def asked(source: NamedClassTasks, mean: Tensor) -> tuple[Tensor, Tensor]:
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
    """The same, after the names are given to the classes that fit best (M,)."""
    n = heads.shape[1]
    said, found = (images @ heads.mT).argmax(-1), []
    for answers, truth in zip(said, labels):
        counts = torch.bincount(truth * n + answers, minlength=n * n).view(n, n).double()
        found.append(matched(counts / len(truth)))
    return torch.tensor(found, dtype=torch.float64)


def unlabelled(method: Method, split: Split, mean: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Track B: test -> how it is scored -> accuracies (M,); sharpness and the share of its own chosen on meta-val."""
    heads, known = directions(method, split["meta_val"], seed), asked(split["meta_val"], mean)
    hparams = [(sharpness, own) for sharpness in SHARPNESSES for own in OWN]
    best = max(
        hparams, key=lambda each: direction_accuracy(with_unlabelled(heads, known[0], *each), *known).mean().item()
    )
    found = {}
    for test in ("cifar", "tiny"):
        heads, known = directions(method, split[test], seed), asked(split[test], mean)
        moved = with_unlabelled(heads, known[0], *best)
        found[test] = {"as it is": direction_accuracy(moved, *known), "matched": right_matched(moved, *known)}
        found[test]["no image, matched"] = right_matched(heads, *known)
    return found


def joined(
    method: Method, split: Split, labelled: dict[str, Tensor], seen: FeatureMap, mean: Tensor, seed: int
) -> dict[str, dict[str, Tensor]]:
    """Names and K images of each class, or of every second one, as ``ltdi classify --names … --examples …`` joins them:
    test -> "K which" -> accuracies (M,). How is chosen on meta-val tasks of as many classes and images."""
    learner, found = linear_classifier(method.learner, "joined"), {}
    joiner = NameImageFusion(learner, method, mean, split["meta_val"].of)
    for test in ("cifar", "tiny"):
        named, row = directions(method, split[test], seed), {}
        query = split[test].batch(torch.arange(len(split[test]))).query
        for shots, half in product(SHOTS, (False, True)):
            counts = torch.full((named.shape[1],), shots)
            counts[1::2] *= not half
            best, _ = select_fusion(joiner.name_directions, joiner.val_classes, mean, counts, generator(seed, "joined"))
            rows = seen(labelled[test][:, :shots])[split[test].classes]
            present = (counts > 0)[None, :, None].expand(rows.shape[:3]).to(rows)
            for way, joining in {"names": NAMES_ONLY, "images": IMAGES_ONLY, "both": best}.items():
                centre = joining.centre(mean, rows, present)
                made = joining.directions(named, rows, present, centre)
                images = F.normalize(query["inputs"] - centre[:, None], dim=-1)
                row[f"{shots}{' of half' if half else ''} {way}"] = direction_accuracy(made, images, query["labels"])
            row[f"{shots}{' of half' if half else ''} worth"] = torch.tensor([best.name_weight]).clamp(max=999).double()
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
    kinds["joined"] = joined(method, split, labelled, seen, mean, seed)
    for kind, of_test in kinds.items():
        for test, row in of_test.items():
            found[f"{test} {kind}"] |= {f"{name} {which}": values for which, values in row.items()}


def text(found: dict, names: tuple[str, ...]) -> str:
    """Two tables: names and unlabelled images, and names and a few labelled ones."""

    def cell(test: str, key: str) -> str:
        return percent(*mean_and_ci95(torch.cat(found[test][key]).double()))

    def worth(test: str, key: str) -> str:
        return ", ".join(f"{each.item():g}" if each < 999 else "all" for each in found[test][key])

    unlabelled_rows = [
        [f"{name}, {which}", *(cell(f"{test} unlabelled", f"{name} {which}") for test in ("cifar", "tiny"))]
        for name in names
        for which in ("as it is", "matched", "no image, matched")
    ]
    joined_rows = []
    for name, shots, (half, second) in product(names, SHOTS, (("", ""), (" of half", " second"))):
        row = [f"{name}, {shots} image{'s' if shots > 1 else ''} of each{second} class"]
        for test in ("cifar", "tiny"):
            row += [cell(f"{test} joined", f"{name} {shots}{half} {way}") for way in WAYS]
            row.append(worth(f"{test} joined", f"{name} {shots}{half} worth"))
        joined_rows.append(row)
    heads = [f"{test}, {way}" for test in ("CIFAR-10", "Tiny-ImageNet") for way in (*WAYS, "a name's worth")]
    return (
        "\n## Names and the task's unlabelled images (another track)\n\nSoft k-means from the head over all images that"
        " are asked, its two hyperparameters chosen on meta-val; *matched*: names are given to the clusters by the"
        " Hungarian"
        " algorithm, which needs the labels, so that it is no classifier; beside it the plain head, matched.\n\n"
        + table(["", "CIFAR-10, 10-way", "Tiny-ImageNet, 50-way"], unlabelled_rows)
        + "\n## Names and a few labelled images\n\nAs `ltdi classify --names … --examples …` joins them: a name counts"
        " for as many images as on meta-val tasks of as many classes and images is best (its worth, by seed), ends"
        " included, and the images pull the centre as is best there. *images*: classes without any keep the name's.\n\n"
        + table(["", *heads], joined_rows)
    )
