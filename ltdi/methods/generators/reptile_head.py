"""REPTILE for the head alone: a meta-learned initialization of the head, adapted by gradient steps on the support set.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms"; the backbone is frozen, as in the inner loop
of ANIL (Raghu et al. 2020, "Rapid Learning or Feature Reuse?"). Published: an initialization φ of the network; k steps
of Adam on each task lead from it to φ_i, and φ moves along mean φ_i − φ, at a rate that falls from 1 to 0. Here

- the outer Adam gets φ − mean φ_i as its gradient, a variant that the paper mentions: its rate is then the common
  ``meta.outer_lr``, independent of the size of the inner steps;
- the inner Adam keeps its momentum (published: β1 = 0), and a mini-batch has equally many images of every class;
- where the initialization is a function of the support set, φ is a shift of it that all tasks share.

The classes of a task are in random order, so that φ cannot distinguish classes: only the steps on the support set do.
"""

from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.learners.fitting import train
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource
from ltdi.tasks.batch import Batch
from ltdi.tasks.class_tasks import context_of, labelled
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator as named_generator
from ltdi.utils.trainer import Row, Training


class ReptileHead(Method):
    """Meta-learned shift φ (D,) of the head's initialization.

    Args:
        setup: n_way of the tasks, at meta-training as well.
        tasks_a_batch: training tasks per outer step.
        train_shots: images per class in the inner loop of a training task.
        inner_steps, inner_images: gradient steps on a training task, and images per class of a mini-batch.
        adapt_steps: gradient steps on a new task, each on its whole support set.
        inner_optimizer, inner_lr: of both; "sgd" or "adam".
    """

    needs = ("examples", "classes")
    adapts = fixed_n_way = True

    def __init__(
        self,
        initialization: Initialization,
        setup: Setup,
        *,
        tasks_a_batch: int,
        train_shots: int,
        inner_steps: int,
        adapt_steps: int,
        inner_optimizer: str,
        inner_lr: float,
        inner_images: int,
    ) -> None:
        super().__init__(initialization, setup)
        self.n_way, self.n_shot, self.tasks_a_batch = setup.n_way, setup.n_shot, tasks_a_batch
        self.train_shots, self.inner_images = train_shots, inner_images
        self.inner_steps, self.adapt_steps = inner_steps, adapt_steps
        self.inner_optimizer, self.inner_lr = inner_optimizer, inner_lr
        # the centre of a random initialization is zero, where hidden units have no gradient
        self.phi = nn.Parameter(
            initialization.shared.clone() if initialization.drawn else torch.zeros_like(initialization.shared)
        )

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Check ``train_shots`` against the number of images per class.

        Raises:
            InputError: there are fewer images.
        """
        if self.train_shots > train.most_shots + 1:
            raise InputError(
                f"methods.reptile_head.train_shots = {self.train_shots} is more than the {train.most_shots + 1} images"
                " of a class; lower it"
            )

    @torch.no_grad()
    def initial_weights(self, context: Context) -> Tensor:
        """Return the weights (B, D) that adaptation starts from."""
        return self.initialization.centre(context) + self.phi

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Adapt ``initial_weights`` by gradient steps on the support set: (B, D); deterministic."""
        assert context.examples is not None
        return self._adapt(self.initial_weights(context), repeat(context.examples), self.adapt_steps)[0]

    def meta_train(
        self, training: Training, train: TaskSource, trajectories: Trajectories, *, seed: int
    ) -> Iterator[Row]:
        """Train φ by REPTILE; the row's loss is that of the adapted heads on the next mini-batch."""
        while training.step < training.steps:
            stream = named_generator(seed, "meta", training.step)
            names = train.draw(self.tasks_a_batch, stream, n_way=self.n_way)
            rows = train.new(names, stream, n_shot=self.train_shots).context.rows
            w = self.initial_weights(context_of(rows[:, :, : self.n_shot]))
            adapted, loss = self._adapt(w, self._mini_batches(rows, stream), self.inner_steps)
            self.phi.grad = (w - adapted).mean(0)
            training.descend()
            yield {"step": training.step, "loss": loss.mean().detach()}

    def _adapt(self, w: Tensor, batches: Iterator[Batch], steps: int) -> tuple[Tensor, Tensor]:
        """Return the weights (B, D) after ``steps`` steps from w (B, D), and their losses (B,)."""
        optimizer, lr = self.inner_optimizer, self.inner_lr
        path = train(self.learner, w, batches, optimizer=optimizer, lr=lr, record=[steps])
        return path.weights[:, 0], path.losses[:, 0]

    def _mini_batches(self, rows: Tensor, stream: torch.Generator) -> Iterator[Batch]:
        """Yield random mini-batches of rows (B, N, train_shots, F), the same choice for all tasks and classes."""
        while True:
            chosen = torch.randperm(rows.shape[2], generator=stream)[: self.inner_images].to(rows.device)
            yield labelled(rows[:, :, chosen])
