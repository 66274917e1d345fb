"""What baselines and methods share that make a class's row of weights from its text and from the rows of known
classes."""

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


class KnownRows(Method):
    """A subclass writes ``directions``: where an asked class lies from the mean row, by the texts and rows of the known
    ones. ``hyperparameters`` are chosen by the score on meta-val, then the temperature by cross-entropy."""

    needs = ("head", "names")
    candidates: Sequence[tuple[float, ...]] = ((),)
    """What the hyperparameters may be."""

    texts: Tensor
    rows: Tensor
    hparams: Tensor
    temperature: Tensor

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        self._table: Table | None = None
        self._held: tuple[int, ...] = ()
        self.head = linear_classifier(initialization.learner, type(self).__name__)
        self.register_buffer("texts", torch.zeros(setup.n_classes, self.head.n_numbers))
        self.register_buffer("rows", torch.zeros(setup.n_classes, self.head.n_features))
        self.register_buffer("hparams", torch.zeros(len(self.candidates[0]), dtype=torch.float64))
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))

    @property
    def table(self) -> Table:
        """Made once for what the buffers hold."""
        held = (self.texts.data_ptr(), self.texts._version, self.rows._version)
        if self._table is None or self._held != held:
            self._table, self._held = Table(self.texts, self.rows), held
        return self._table

    def learn(self, train: NamedClassTasks) -> None:
        """What is known of the classes that are learned from."""
        self.texts.copy_(train.of.texts)
        self.rows.copy_(train.of.means())

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        assert isinstance(train, NamedClassTasks)
        self.learn(train)
        self.choose(val)

    def choose(self, val: TaskSource) -> None:
        """The hyperparameters, where there are several, and the temperature."""
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
        """(B, N, F)"""
        raise NotImplementedError

    def weights(self, context: Context) -> Tensor:
        """(B, D)"""
        return self.table.classifier(self.head, self.directions(context), self.temperature.item())

    @torch.no_grad()
    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        return self.weights(context)
