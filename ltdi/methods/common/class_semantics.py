"""Base class of methods that predict a class's weight row from its text embedding and the rows of training classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.initialization.closed_form import calibrated_temperature, linear_classifier
from ltdi.initialization.from_names import Table
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.trajectories.collection import Trajectories


class ClassSemanticsMethod(Method):
    """A zero-shot classifier from class semantics. Subclasses implement ``directions``.

    ``hparams`` are selected by the score on meta-val tasks, then the temperature by their cross-entropy.
    """

    needs = ("head", "names")
    candidates: Sequence[tuple[float, ...]] = ((),)
    """Candidate hyperparameters."""

    texts: Tensor
    """Text embeddings of the training classes (classes, E)."""
    rows: Tensor
    """Their weight rows: class means or rows of a trained classifier (classes, F)."""
    hparams: Tensor
    """The selected hyperparameters."""
    temperature: Tensor
    """Scale of the logits."""

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self._table: Table | None = None
        self._table_version: tuple[int, ...] = ()
        self.head = linear_classifier(initialization.learner, type(self).__name__)
        self.register_buffer("texts", torch.zeros(setup.n_classes, self.head.n_numbers))
        self.register_buffer("rows", torch.zeros(setup.n_classes, self.head.n_features))
        self.register_buffer("hparams", torch.zeros(len(self.candidates[0]), dtype=torch.float64))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    @property
    def table(self) -> Table:
        """Texts and rows as a ``Table`` of training classes, rebuilt when the buffers change."""
        version = (self.texts.data_ptr(), self.texts._version, self.rows._version)
        if self._table is None or self._table_version != version:
            self._table, self._table_version = Table(self.texts, self.rows), version
        return self._table

    def fit(self, train: NamedClassTasks) -> None:
        """Store texts and rows of the training classes."""
        self.texts.copy_(train.of.texts)
        self.rows.copy_(train.of.means())

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Store the training classes, then select hyperparameters on meta-val."""
        assert isinstance(train, NamedClassTasks)
        self.fit(train)
        self.choose(val)

    def choose(self, val: TaskSource) -> None:
        """Select the hyperparameters, if there are several candidates, and the temperature on meta-val."""
        if len(self.candidates) > 1:
            self._set(max(self.candidates, key=lambda hparams: self._mean_score(hparams, val)))
        self.temperature.fill_(1.0)
        self.temperature.fill_(calibrated_temperature(self.head, val, self.weights)[0])

    def _set(self, hparams: tuple[float, ...]) -> None:
        self.hparams.copy_(torch.tensor(hparams, dtype=torch.float64))

    def _mean_score(self, hparams: tuple[float, ...], val: TaskSource) -> float:
        self._set(hparams)
        return scores(self.learner, val, self.weights).mean().item()

    def directions(self, context: Context) -> Tensor:
        """Predict each class's row relative to the mean row, of any length: (B, N, F)."""
        raise NotImplementedError

    def weights(self, context: Context) -> Tensor:
        """Build the weights (B, D) of a linear classifier from ``directions``."""
        return self.table.classifier(self.head, self.directions(context), self.temperature.item())

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Return ``weights`` (B, D); deterministic."""
        return self.weights(context)
