"""DyLoRA (Valipour et al. 2023, "DyLoRA: Parameter-Efficient Tuning of Pre-trained Models using Dynamic Search-Free
Low-Rank Adaptation"): LoRA whose every prefix of ranks is an adapter of its own.

At each step a rank b is drawn evenly from 1 … r, and the loss is that of the first b ranks alone, at the scale
alpha / b that LoRA of rank b has. As published; the variant that updates rank b alone ("frozen") is not here.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ltdi.learners import Lora
from ltdi.learners.fitting import adapt
from ltdi.tasks.batch import Batch


def prefix(learner: Lora, w: Tensor, rank: int) -> Tensor:
    """Weights (B, D) whose adapters are those of w's first ``rank`` ranks, at these ranks' scale."""
    tensors = learner.space.unflatten(w)
    kept = (torch.arange(learner.rank, device=w.device) < rank)[:, None] * (learner.rank / rank)
    return learner.space.flatten(
        {name: value * kept if name.endswith("lora_B.weight") else value for name, value in tensors.items()}
    )


def train(
    learner: Lora, w: Tensor, batches: Iterator[Batch], *, steps: int, lr: float, stream: torch.Generator
) -> Tensor:
    """Weights (B, D) after Adam's steps."""

    def ranked() -> Iterator[Batch]:
        for batch in batches:
            yield {**batch, "rank": torch.randint(1, learner.rank + 1, (), generator=stream)}

    def loss(w: Tensor, batch: Batch) -> Tensor:
        return learner.loss(prefix(learner, w, int(batch["rank"])), batch)

    return adapt(loss, w, ranked(), optimizer="adam", lr=lr, record=[steps]).weights[:, 0]
