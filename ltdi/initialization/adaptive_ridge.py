"""Ridge regression whose penalty a task's own support rows tell, by a map learned on meta-val."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ltdi.initialization.closed_form import ClosedForm, Scalar, calibrated_temperature, linear_classifier, ridge_weights
from ltdi.learners.base import Classifier
from ltdi.tasks.base import Context, Task, TaskSource
from ltdi.tasks.batch import ABSENT
from ltdi.utils.nn import masked_mean
from ltdi.utils.seeding import generator

WAYS, SHOTS, QUERIES = (5, 20), (1, 2, 5, 10), 5
"""Of the tasks that the map is fitted on."""
TASKS_A_SIZE = 32
ITERATIONS = 100
PRIOR = 3e-4
"""How much the loss counts the squares of what a says of d, K and N: meta-val domains that are all alike tell next to
nothing of it, and without this others paid for what they told."""


@dataclass(frozen=True, eq=False)
class AdaptiveRidge(ClosedForm):
    """Ridge regression with the penalty λ = s · exp(a·φ).

    s is the mean squared length of the task's centred rows, and φ = (1, log d, log K, log N) with d the share of their
    directions that they spread over: the participation ratio (tr G)² / tr G² of their Gram matrix G by the number of
    rows less one. Photographs of objects spread evenly (d near 1) and are best told apart by their means, which a large
    penalty gives; where a few directions hold nearly everything, as in drawings and characters, a penalty of a
    hundredth tells what these have in common from what tells classes apart. No one penalty serves both.
    """

    log_penalty: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    kind: ClassVar[str] = "adaptive_ridge"

    def values(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "log_penalty": list(self.log_penalty)}

    def centre(self, context: Context) -> Tensor:
        learner = linear_classifier(self.learner, "the start adaptive_ridge")
        log_penalty = torch.tensor(self.log_penalty, device=context.rows.device)
        return adaptive_ridge_weights(learner, context, log_penalty, self.temperature)

    def calibrated(self, val: TaskSource) -> "AdaptiveRidge":
        """a by the cross-entropy of the queries of new meta-val tasks of ``WAYS`` classes and ``SHOTS`` images, as many
        of every part of meta-val, where each size of task has a temperature exp(b·φ) of its own; then the temperature
        of all by that of the table's tasks."""
        learner = linear_classifier(self.learner, "the start adaptive_ridge")
        sums = [_Sums.of(task) for task in _tasks(val)]
        own = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([own], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = torch.stack([each.loss(*own) for each in sums]).mean() + PRIOR * own[0, 1:].square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        fitted = replace(self, temperature=1.0, log_penalty=tuple(own[0].tolist()))
        return replace(fitted, temperature=calibrated_temperature(learner, val, fitted.centre)[0])


def adaptive_ridge_weights(learner: Classifier, context: Context, a: Tensor, temperature: Scalar) -> Tensor:
    """Ridge regression with the penalty of each task that a (4,) gives, as weights (B, D)."""
    _, size, phi = _described(context)
    return ridge_weights(learner, context, size * (phi @ a.to(phi)).exp(), temperature)


def _described(context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """The centred rows (B, N·K, F), zero where there is none, their mean squared length (B,), and φ (B, 4)."""
    x, there = context.rows.flatten(1, 2), context.present.flatten(1)
    x = (x - masked_mean(x, there)[:, None]) * there[..., None]
    gram, n = x @ x.mT, there.sum(1)
    # of rows that are all the same as well, there is a penalty to solve with
    size = (gram.diagonal(dim1=1, dim2=2).sum(1) / n).clamp_min(1e-6)
    spread = (size * n).square() / gram.square().sum((1, 2)).clamp_min(1e-12) / (n - 1).clamp_min(1)
    N = torch.full_like(n, context.n_way)
    return x, size, torch.stack([torch.ones_like(n), spread.clamp_min(1e-6).log(), (n / N).log(), N.log()], 1)


@torch.no_grad()
def _tasks(val: TaskSource) -> Iterator[Task]:
    """Of every part of meta-val, in each size that it has images for."""
    stream = generator(0, "adaptive ridge")
    for part in val.parts:
        for n_shot in SHOTS:
            for n_way in WAYS:
                n_query = min(QUERIES, part.most_shots + 1 - n_shot)
                if n_query > 0:
                    names = part.draw(TASKS_A_SIZE, stream, n_way=n_way)
                    yield part.new(names, stream, n_shot=n_shot, n_query=n_query)


class _Sums(NamedTuple):
    """What the loss needs of a batch of tasks, in the eigenvectors V of their Gram matrices: eigenvalues (B, R),
    targets Vᵀy (B, R, N), queries q·xᵀV (B, M, R), what of the logits no penalty moves (B, 1, N), the queries' labels
    (B, M), the rows' mean squared length (B,), φ (B, 4)."""

    eigenvalues: Tensor
    targets: Tensor
    queries: Tensor
    offset: Tensor
    labels: Tensor
    size: Tensor
    phi: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, task: Task) -> "_Sums":
        context = task.context
        x, size, phi = (each.double().cpu() for each in _described(context))
        rows, there = context.rows.flatten(1, 2).double().cpu(), context.present.flatten(1).double().cpu()
        of_class = torch.eye(context.n_way, dtype=x.dtype).repeat_interleave(context.rows.shape[2], 0)
        y = 2 * of_class.expand(len(x), -1, -1) - 1
        offset = masked_mean(y, there)[:, None]
        q = task.query["inputs"].double().cpu() - masked_mean(rows, there)[:, None]
        eigenvalues, V = torch.linalg.eigh(x @ x.mT)
        targets = V.mT @ ((y - offset) * there[..., None])
        return cls(eigenvalues.clamp_min(0), targets, q @ x.mT @ V, offset, task.query["labels"].cpu(), size, phi)

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean cross-entropy at these coefficients, as ``centre`` would have it."""
        penalty, temperature = self.size * (self.phi @ a).exp(), (self.phi @ b).exp()
        logits = self.queries @ (self.targets / (self.eigenvalues + penalty[:, None])[..., None]) + self.offset
        logits = temperature[:, None, None] * logits
        return cross_entropy(logits.flatten(0, 1), self.labels.flatten(), ignore_index=ABSENT)
