"""Training of a body on many-way episodes with the loss of prototypical networks (Snell et al. 2017).

Two differences from the published form. Every image of a batch is the one-shot support once and a
query otherwise: one forward pass serves ``images_a_class`` episodes. And the distance has a learned
scale, because the features of a 64-filter Conv4 have no natural one.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.bodies.base import Body
from ltdi.datasets.images import ImageSet
from ltdi.utils.seeding import generator, pick
from ltdi.utils.trainer import Row, Training


class EpisodicLoss(nn.Module):
    """A body with the scale of its distances: images -> mean cross-entropy of one-shot episodes."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (C, I, channels, height, width) of C classes -> loss, share of queries named rightly."""
        n_classes, n_images = images.shape[:2]
        features = self.body(images.flatten(0, 1)).float().unflatten(0, (n_classes, n_images))
        # (I queries' slot, I supports' slot, C queries' class, C supports' class)
        rows = features.transpose(0, 1)
        distances = torch.cdist(rows[:, None], rows[None]).square()
        logits = -distances * self.log_scale.exp() / features.shape[-1] ** 0.5
        labels = torch.arange(n_classes, device=images.device)
        other = ~torch.eye(n_images, dtype=torch.bool, device=images.device)
        logits = logits[other]
        labels = labels.expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return loss, (logits.argmax(-1) == labels).float().mean()


def pretrain(
    training: Training,
    images: ImageSet,
    *,
    classes_a_batch: int,
    images_a_class: int,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    precision: torch.dtype,
    seed: int,
) -> Iterator[Row]:
    """Train ``training.model`` (an EpisodicLoss) from ``training.step`` to ``training.steps``; yields a row a step.

    Of a class of fewer than ``images_a_class`` images some are taken twice. Each step draws from a stream of its own,
    so that a resumed training goes on with the same batches.
    """
    model = training.model.train()
    device = next(model.parameters()).device
    first, counts = images.places
    while training.step < training.steps:
        stream = generator(seed, "pretrain", training.step)
        classes = torch.randperm(len(counts), generator=stream)[:classes_a_batch]
        chosen = pick(counts[classes], images_a_class, stream)
        again = chosen.take_along_dim(torch.arange(images_a_class) % counts[classes, None], 1)
        chosen = torch.where(chosen < 0, again, chosen)
        batch = images.pixels(first[classes, None] + chosen).float().div_(255)
        batch = augment(batch.flatten(0, 1), stream).unflatten(0, chosen.shape)
        batch = batch.to(device, non_blocking=True)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss, accuracy = model(batch)
        loss.backward()
        training.descend()
        yield {"step": training.step, "loss": loss.detach(), "accuracy": accuracy}
