"""One training on all tasks, and where it draws the line between classes by a few examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ltdi.initialization.gaussian import Shared
from ltdi.learners import Lora
from ltdi.tasks.base import Context, NewTasks, Task
from ltdi.tasks.batch import Batch
from ltdi.utils.console import say

TRUSTS = (0.0, 1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""How much an example says of the bias, beside the start's own word for it, which counts 1."""

TASKS_A_PASS = 16


@dataclass(frozen=True, eq=False)
class Joint(Shared):
    """The weights of one training on the examples of all meta-training tasks: of tasks that share what labels mean, the
    best that is known before anything of a task is.

    Where another task draws the line between its classes, a few examples say: of two classes it is moved towards the
    middle of the means of their logits, by n·trust / (1 + n·trust) of the way with n examples; the posterior mean of a
    bias that is normal around the start's. Nothing moves with a ``trust`` of 0, or where a class has no example.
    """

    trust: float = 0.0

    kind: ClassVar[str] = "joint"

    def values(self) -> dict[str, Any]:
        return {"trust": self.trust}

    def centre(self, context: Context) -> Tensor:
        w = super().centre(context)
        if not self.trust or context.examples is None:
            return w
        with torch.no_grad():
            middle, n = self._middle(w, context.examples)
        return self._lora.with_bias(w, _moved(middle, n, self.trust))

    @property
    def _lora(self) -> Lora:
        assert isinstance(self.learner, Lora)
        return self.learner

    def _middle(self, w: Tensor, examples: Batch) -> tuple[Tensor, Tensor]:
        """What the classes' mean logits are in the mean of the classes (B, N), and the number of examples (B,), 0 where
        a class has none."""
        labels = examples["labels"]
        logits = self._lora.logits(w, examples["hidden"], examples["mask"])
        of_class = (labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits)
        there = of_class.sum(1)
        middle = ((of_class.mT @ logits) / there.clamp_min(1)[..., None]).mean(1)
        return middle - middle.mean(-1, keepdim=True), there.sum(1) * (there > 0).all(1)

    def cross_entropies(self, tasks: Sequence[Task]) -> Tensor:
        """The mean of the queries' labels with each of ``TRUSTS`` (len(TRUSTS),)."""
        found = []
        for task in tasks:
            w, query, examples = super().centre(task.context), task.query, task.context.examples
            assert examples is not None
            logits, (middle, n) = self._lora.logits(w, query["hidden"], query["mask"]), self._middle(w, examples)
            moved = [(logits + _moved(middle, n, trust)[:, None]).flatten(0, 1) for trust in TRUSTS]
            labels = query["labels"].flatten()
            found.append(torch.stack([cross_entropy(each, labels, reduction="none") for each in moved], 1).double())
        return torch.cat(found).mean(0)


def _moved(middle: Tensor, n: Tensor, trust: float) -> Tensor:
    """How much is added to the biases (B, N)."""
    return -middle * (n * trust / (1 + n * trust))[:, None]


@torch.no_grad()
def best_joint(initializations: Mapping[str, Joint], val: NewTasks, *, n_tasks: int, stream: torch.Generator) -> Joint:
    """Of the starts, each with each of ``TRUSTS``, the one with the least cross-entropy on the queries of new tasks of
    meta-val, the same for all. Says what each, by its name, has at its best."""
    tasks = [val.new(names, stream) for names in val.draw(n_tasks, stream).split(TASKS_A_PASS)]
    found: list[tuple[float, Joint]] = []
    for name, initialization in initializations.items():
        losses = initialization.cross_entropies(tasks).tolist()
        loss, trust = min(zip(losses, TRUSTS, strict=True), key=lambda each: each[0])
        say(f"joint start, {name}: cross-entropy on meta-val {loss:.4f} with a trust of {trust:g}")
        found.append((loss, replace(initialization, trust=trust)))
    return min(found, key=lambda each: each[0])[1]
