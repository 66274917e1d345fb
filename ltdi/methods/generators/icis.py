"""ICIS: zero-shot classifier weights from class descriptors, by two auto-encoders with a common latent space.

Christensen, Mancini, Koepke, Winther & Akata 2023, "Image-free classifier injection for zero-shot classification". An
encoder and a decoder of class descriptors a (text embeddings) and of classifier weights w each; all four paths are
trained to reconstruct by cosine: a → a, w → w, a → w and w → a. Descriptors of classes without weights count in a → a.
No images are used. The weights of a new class are decoded from its encoded descriptor.

Differences from the published form:
- the descriptors without weights are those of the meta-val classes; published is a training per set of target classes,
  which are not available here before generation;
- weights are rows relative to their mean, and a generated row has unit length times a temperature selected on meta-val.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import step_generator
from ltdi.tasks.base import Context, TaskSource
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.console import say_fewer
from ltdi.utils.trainer import Row, Training


class Icis(ClassSemanticsMethod):
    """The cross-modal auto-encoders of ICIS.

    Args:
        width: of the hidden layers and of the latent space.
        classes_a_batch: training classes per step.
    """

    def __init__(self, initialization: Initialization, setup: Setup, *, width: int, classes_a_batch: int) -> None:
        super().__init__(initialization, setup)
        self.classes_a_batch = classes_a_batch
        n_numbers, n_features = self.head.n_numbers, self.head.n_features
        self.encode = nn.ModuleDict({"a": _network(n_numbers, width, width), "w": _network(n_features, width, width)})
        self.decode = nn.ModuleDict({"a": _network(width, width, n_numbers), "w": _network(width, width, n_features)})

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Store the training classes and the text embeddings of the meta-val classes."""
        assert isinstance(train, NamedClassTasks) and isinstance(val, NamedClassTasks)
        self.fit(train)
        # not a buffer: only training uses them
        self._unseen = F.normalize(val.of.texts, dim=-1)

    def finish(self, val: TaskSource, *, seed: int) -> None:
        """Select the temperature on meta-val."""
        self.choose(val)

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Minimise the sum of the four reconstruction losses over batches of training classes."""
        texts, rows = F.normalize(self.texts, dim=-1), F.normalize(self.table.centred, dim=-1)
        say_fewer("methods.icis.classes_a_batch", self.classes_a_batch, len(rows), "training classes")
        while training.step < training.steps:
            stream = step_generator(seed, training.step)
            chosen = torch.randperm(len(rows), generator=stream)[: self.classes_a_batch].to(rows.device)
            losses = self.reconstruction_losses(texts[chosen], rows[chosen], self._unseen)
            loss = torch.stack(list(losses.values())).sum()
            loss.backward()
            training.descend()
            yield {"step": training.step, "loss": loss.detach()} | {
                name: each.detach() for name, each in losses.items()
            }

    def reconstruction_losses(self, texts: Tensor, rows: Tensor, unseen: Tensor) -> dict[str, Tensor]:
        """Return the mean 1 − cosine of each of the four reconstructions, () each.

        Args:
            texts: text embeddings of training classes (M, E).
            rows: their weight rows (M, F).
            unseen: text embeddings of classes without weights (U, E).
        """
        latent_a, latent_w = self.encode["a"](torch.cat([texts, unseen])), self.encode["w"](rows)
        paired = latent_a[: len(texts)]
        return {
            "a_to_a": _distance(self.decode["a"](latent_a), torch.cat([texts, unseen])),
            "w_to_w": _distance(self.decode["w"](latent_w), rows),
            "a_to_w": _distance(self.decode["w"](paired), rows),
            "w_to_a": _distance(self.decode["a"](latent_w), texts),
        }

    def directions(self, context: Context) -> Tensor:
        """Decode each class's row from its encoded text embedding: (B, N, F)."""
        return self.decode["w"](self.encode["a"](F.normalize(context.means, dim=-1)))


def _network(n_in: int, width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), nn.ReLU(), nn.Linear(width, n_out))


def _distance(x: Tensor, target: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(x, target, dim=-1)).mean()
