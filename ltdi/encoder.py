"""The support encoder: from what the body says of a support image to where the mean of its class is likely to lie.

A body is as sure of classes it was trained on as it never is of new ones. The encoder is trained on classes that the
body has not seen, in episodes of hundreds of classes, where a one-shot mean that is slightly off costs something in
every episode; few-way tasks seldom show it. Ours, not the paper's, which embeds a task by the body alone.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.nn import zero
from ltdi.seeding import generator
from ltdi.training import Training


class Encoder(nn.Module):
    """Support features (…, F) -> encoded features (…, F) in the same space; untrained, the same."""

    def __init__(self, n_features: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a in (n_features, *[width] * (depth - 1)):
            layers += [nn.Dropout(dropout), nn.Linear(a, width), nn.GELU()]
        self.difference = nn.Sequential(*layers, zero(nn.Linear(width, n_features)))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.difference(features)


class EncoderLoss(nn.Module):
    """An encoder with the scale of its distances: class means of encoded supports, queries as the body has them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        # near the scale of a trained body, whose features have unit root mean square
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, supports: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """supports (C, K, F), queries (C, Q, F) of C classes -> mean cross-entropy, share of queries named rightly."""
        means = self.encoder(supports).mean(1)
        distances = torch.cdist(queries.flatten(0, 1), means).square()
        logits = -distances * self.log_scale.exp() / queries.shape[-1] ** 0.5
        labels = torch.arange(len(queries), device=queries.device).repeat_interleave(queries.shape[1])
        return F.cross_entropy(logits, labels), (logits.argmax(-1) == labels).float().mean()


def pretrain_encoder(
    training: Training, features: Tensor, *, n_shot: int, classes_a_batch: int, query_images: int, seed: int
) -> Iterator[dict[str, float]]:
    """Train ``training.model`` (an EncoderLoss) on episodes over the features (C, I, F); yields a row a step.

    Each step draws from a stream of its own, so that a resumed training goes on with the same batches.
    """
    model = training.model.train()
    while training.step < training.steps:
        stream = generator(seed, "pretrain encoder", training.step)
        # what dropout draws, on every device
        torch.manual_seed(stream.initial_seed())
        classes = torch.randperm(len(features), generator=stream)[:classes_a_batch]
        chosen = torch.rand(len(classes), features.shape[1], generator=stream).argsort(1)[:, : n_shot + query_images]
        images = features[classes[:, None].to(features.device), chosen.to(features.device)]
        loss, accuracy = model(images[:, :n_shot], images[:, n_shot:])
        loss.backward()
        training.descend()
        yield {"step": training.step, "loss": loss.item(), "accuracy": accuracy.item()}
