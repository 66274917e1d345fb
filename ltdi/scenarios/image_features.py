"""What the scenarios of images share: pretraining of the backbone, the image sets, the scale of features."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.bodies.embedding import embed
from ltdi.bodies.pretraining import EpisodicLoss, pretrain
from ltdi.bodies.registry import new_body, pretrained_body
from ltdi.datasets import DATASETS, ImageSet, augment, expand_classes, join
from ltdi.scenarios.base import Pretraining
from ltdi.tasks.base import Task, batches
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.utils.console import say_fewer
from ltdi.utils.devices import precision
from ltdi.utils.errors import InputError
from ltdi.utils.memory import check_fits
from ltdi.utils.metrics import mean_and_ci95, nearest_mean_accuracy
from ltdi.utils.seeding import generator


def pretraining(
    train: ImageSet, val: ImageSet, body: Mapping[str, Any], *, seed: int, device: torch.device
) -> Pretraining:
    """A body trained on the images, or one from a file, as the section ``body`` of params.yaml says."""
    channels = train.images.shape[1]
    if body["weights"]:
        trained = pretrained_body(body, channels).to(device)
        trained.to(memory_format=torch.channels_last)
        return Pretraining(trained, trained.facts(), partial(_scores, trained, val, seed))
    images = expand_classes(train, body["transforms"])
    say_fewer("body.classes_a_batch", body["classes_a_batch"], len(images.names), "classes")
    n_images, n_classes = body["images_a_class"], min(body["classes_a_batch"], len(images.names))
    check_fits(
        (n_images * n_classes) ** 2,
        f"all distances of {n_images} images of each of {n_classes} classes",
        "lower body.images_a_class or body.classes_a_batch",
    )
    torch.manual_seed(generator(seed, "body").initial_seed())
    model = EpisodicLoss(new_body(body, channels))
    model.to(device).to(memory_format=torch.channels_last)
    rows = partial(
        pretrain,
        images=images,
        classes_a_batch=body["classes_a_batch"],
        images_a_class=body["images_a_class"],
        augment=partial(augmented, body["augment"]),
        precision=precision(body["precision"], device),
        seed=seed,
    )
    return Pretraining(
        model.body,
        model.body.facts(),
        partial(_scores, model.body, val, seed),
        model=model,
        rows=rows,
        optimizer={key: body[key] for key in ("lr", "steps", "ema", "weight_decay")},
        inputs=(dict(body), seed, images.content, list(images.counts)),
        code=("ltdi.bodies.pretraining", type(model.body).__module__),
    )


def augmented(ranges: Mapping[str, float], images: Tensor, stream: torch.Generator) -> Tensor:
    """The augmented copies of images (M, channels, height, width) in [0, 1]."""
    return augment(images, generator=stream, **ranges)


def _scores(body: nn.Module, images: ImageSet, seed: int) -> dict[str, float]:
    """Nearest-mean accuracy on 600 meta-val tasks of the usual sizes that there are classes and images for."""
    classes = Classes(embed(body, images.images), torch.tensor(images.counts))
    scores = {}
    for n_way, n_shot in ((5, 1), (5, 5), (20, 1), (20, 5)):
        if n_way <= len(classes) and n_shot + 10 <= max(images.counts):
            sizes = {"n_tasks": 600, "n_way": n_way, "n_shot": n_shot, "n_query": 10}
            source = ClassTasks.sample(classes, **sizes, seed=seed, split="meta_val")
            accuracies = torch.cat([_nearest_mean(source.batch(tasks)) for tasks in batches(len(source))])
            scores[f"val_{n_way}w{n_shot}s"], _ = mean_and_ci95(accuracies)
    return scores


def _nearest_mean(task: Task) -> Tensor:
    return nearest_mean_accuracy(task.context.means, task.query["inputs"], task.query["labels"])


def scale_of(features: Tensor) -> Tensor:
    """What meta-training features (R, F) are divided by: scaled, not centred, what ends in ReLU stays >= 0.

    Raises:
        InputError: they are all zero, or not finite.
    """
    scale = features.square().mean().sqrt()
    if not 0 < scale.item() < math.inf:
        raise InputError(
            f"the body's features have size {scale.item()}; train it with a lower body.lr, or name another as"
            " body.weights"
        )
    return scale


def image_sets(data: Mapping[str, Any]) -> dict[str, ImageSet]:
    """The splits of the data set, the meta-val classes among the meta-training ones if ``train_on_val``."""
    data_set = DATASETS[data["name"]]
    hparams: dict[str, Any] = {"size": data["size"]} if data_set.sized else {}
    if data_set.classes_split:
        hparams["table"] = data["splits"]
    splits = data_set.load(Path(data["root"]), download=data["download"], **hparams)
    if data["train_on_val"]:
        splits["meta_train"] = join(splits["meta_train"], splits["meta_val"])
    return splits
