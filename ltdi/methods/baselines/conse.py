"""ConSE baseline (Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic embeddings").

An image is classified among the training classes; the mean of the text embeddings of the ``top`` most probable ones,
weighted by their probabilities, is compared with the text embeddings of the task's classes by cosine similarity. That
is no linear classifier of features: the weights are the text embeddings of the task's classes, of a separate learner.
The temperature of the probabilities and ``top`` are selected on meta-val.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.initialization.from_names import Table
from ltdi.learners.base import Classifier
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.tasks.base import Context, TaskSource

INPUTS_TOGETHER = 1024
"""Inputs embedded per pass."""


class ConvexCombination(Classifier):
    """A learner whose weights are the text embeddings (B, N·E) of a task's classes.

    Args:
        table: text embeddings and rows of the training classes.
        temperature: of the softmax over training classes.
        top: how many of the most probable training classes are averaged.
    """

    inputs_together = 6400

    def __init__(self, table: Table, temperature: float, top: int) -> None:
        self.table, self.temperature, self.top = table, temperature, top
        self.n_numbers, self.n_features = table.texts.shape[1], table.rows.shape[1]
        self.space = WeightSpace({"class.texts": (None, self.n_numbers)})

    def facts(self) -> dict[str, Any]:
        """Return the learner's name; it is never rebuilt from a file."""
        return {"name": "convex_combination"}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Draw normal text embeddings (n_tasks, D)."""
        return torch.randn(n_tasks, self.space.dim(n_way), generator=generator, device=generator.device)

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Not supported: cosine similarity to text embeddings is no linear classifier of features."""
        raise NotImplementedError("cosines with texts hold no linear classifier of features")

    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        """Return cosine similarities (B, M, N) of inputs (B, M, F), embedded as texts, to the classes' texts w."""
        texts = F.normalize(self.space.unflatten(w)["class.texts"], dim=-1)
        return F.normalize(self.embed(inputs), dim=-1) @ texts.mT

    def embed(self, inputs: Tensor) -> Tensor:
        """Embed features (…, F) in the space of texts (…, E) by the convex combination."""
        parts = inputs.flatten(0, -2).split(INPUTS_TOGETHER)
        return torch.cat([self._embed(part) for part in parts]).unflatten(0, inputs.shape[:-1])

    def _embed(self, inputs: Tensor) -> Tensor:
        rows = F.normalize(self.table.centred, dim=-1)
        shares = (self.temperature * (inputs - self.table.mean) @ rows.mT).softmax(-1)
        most, which = shares.topk(min(self.top, len(rows)), dim=-1)
        # as a product with sparse shares: gathering ``top`` text embeddings per input would take more memory
        return torch.zeros_like(shares).scatter_(-1, which, most) @ F.normalize(self.table.texts, dim=-1)


class Conse(ClassSemanticsMethod):
    """Convex combination of semantic embeddings; hyperparameters are (temperature, top)."""

    candidates = tuple(product((0.25, 0.5, 1.0, 2.0), (1, 10, 100)))

    @property
    def learner(self) -> ConvexCombination:
        """The learner of the selected hyperparameters."""
        temperature, top = self.hparams.tolist()
        return ConvexCombination(self.table, temperature, int(top))

    def choose(self, val: TaskSource) -> None:
        """Select temperature and ``top`` by the score on meta-val."""
        self._set(max(self.candidates, key=lambda hparams: self._mean_score(hparams, val)))

    def weights(self, context: Context) -> Tensor:
        """Return the text embeddings of the task's classes (B, N·E)."""
        return context.means.flatten(1)
