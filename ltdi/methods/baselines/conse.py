"""Baseline: ConSE (Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic embeddings").

An image is classified among the known classes; the mean of the texts of the ``top`` most probable ones, weighted by
their probabilities, is compared with the asked names by cosine. That is no linear classifier of features: its weights
are the asked texts, of a learner of its own. The temperature of the probabilities and ``top`` are chosen on meta-val.
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


class ConvexCombination(Classifier):
    """Of texts, by the probabilities of the known classes. Its weights are the asked classes' texts (B, N·E)."""

    inputs_together = 6400

    def __init__(self, table: Table, temperature: float, top: int) -> None:
        self.table, self.temperature, self.top = table, temperature, top
        self.n_numbers, self.n_features = table.texts.shape[1], table.rows.shape[1]
        self.space = WeightSpace({"asked.texts": (None, self.n_numbers)})

    def facts(self) -> dict[str, Any]:
        return {"name": "convex_combination"}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        return torch.randn(n_tasks, self.space.dim(n_way), generator=generator, device=generator.device)

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        raise NotImplementedError("cosines with texts hold no linear classifier of features")

    def logits(self, w: Tensor, inputs: Tensor) -> Tensor:
        asked = F.normalize(self.space.unflatten(w)["asked.texts"], dim=-1)
        return F.normalize(self.embed(inputs), dim=-1) @ asked.mT

    def embed(self, inputs: Tensor) -> Tensor:
        """Features (…, F) as texts (…, E)."""
        parts = inputs.flatten(0, -2).split(INPUTS_TOGETHER)
        return torch.cat([self._embed(part) for part in parts]).unflatten(0, inputs.shape[:-1])

    def _embed(self, inputs: Tensor) -> Tensor:
        rows = F.normalize(self.table.centred, dim=-1)
        shares = (self.temperature * (inputs - self.table.mean) @ rows.mT).softmax(-1)
        most, which = shares.topk(min(self.top, len(rows)), dim=-1)
        # as a product: a row of texts for each of the most would be read for every input
        return torch.zeros_like(shares).scatter_(-1, which, most) @ F.normalize(self.table.texts, dim=-1)


class Conse(ClassSemanticsMethod):
    candidates = tuple(product((0.25, 0.5, 1.0, 2.0), (1, 10, 100)))

    @property
    def learner(self) -> ConvexCombination:
        temperature, top = self.hparams.tolist()
        return ConvexCombination(self.table, temperature, int(top))

    def choose(self, val: TaskSource) -> None:
        self._set(max(self.candidates, key=lambda hparams: self._mean_score(hparams, val)))

    def weights(self, context: Context) -> Tensor:
        return context.means.flatten(1)
