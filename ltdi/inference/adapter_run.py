"""An adapter for a data set of one's own, from what a finished run of the scenario adapters has learned."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ltdi.datasets.text_files import PARTS, is_there, read_text_set
from ltdi.learners import Lora
from ltdi.learners.fitting import adapt
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.store import read_tensors
from ltdi.store.schemas import EXAMPLES, METHOD
from ltdi.tasks.base import Context
from ltdi.tasks.batch import Batch
from ltdi.trajectories.storage import load_initialization, method_of_run
from ltdi.utils.console import say
from ltdi.utils.devices import device, exact
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


class AdapterRun:
    """A finished run of the scenario adapters.

    Args:
        data: the folder that its stages wrote.
        method: the trained method, if no other of the run's methods and baselines is named.

    Raises:
        InputError: the folder holds no finished run, not that method, or a run of another scenario.
    """

    @exact()
    def __init__(self, data: Path, *, method: str = "") -> None:
        self.data, self.device = data, device()
        self.name = method_of_run(data, method)
        facts = load_initialization(data, self.device)[2]
        if facts["source"] != "texts":
            raise InputError(f"{data}: a run of {facts['scenario']}, and adapters are of the scenario adapters")
        self.method: Method = read_method(data / "model" / "methods", self.name, None, self.device)
        learner = self.method.learner
        assert isinstance(learner, Lora)
        self.learner = learner
        self.length = read_tensors(data / "tasks" / "examples.safetensors", kind=EXAMPLES)[1]["length"]
        folder = data / "model" / "methods" / f"{self.name}.safetensors"
        self.n_shot = int(read_tensors(folder, kind=METHOD)[1]["setup"]["n_shot"])

    def read(self, task: Path) -> dict[str, dict[str, Tensor]]:
        """What the frozen model makes of a task's train part, and of its dev part where there is one: ``embedding`` (1,
        M, C), and a learner's batch of one task. What was read is said, and the learner has the classes' names.

        Raises:
            InputError: there is no train part, a table cannot be read, or there are not two classes.
        """
        if not task.is_dir():
            raise InputError(f"{task}: no folder; name one that holds train.tsv, .csv or .parquet")
        there = [part for part in PARTS[1:] if is_there(task, part)]
        of = read_text_set(task.resolve().parent, task.resolve().name, ["train", *there])
        for part, told in of.told.items():
            say(f"{part}: {told}")
        self.learner.classes = of.classes
        return {part: self.read_texts(texts, of.labels[part]) for part, texts in of.texts.items()}

    @exact()
    def read_texts(self, texts: list[tuple[str, ...]], labels: Tensor) -> dict[str, Tensor]:
        """The same of texts and their labels (M,)."""
        encoder, parts = self.learner.encoder, []
        for first in range(0, len(texts), encoder.texts_together):
            tokens = encoder.tokens(texts[first : first + encoder.texts_together], self.length)
            parts.append(encoder.read(tokens, self.learner.lowest))
        read = {name: torch.cat([part[name] for part in parts])[None].to(self.device) for name in parts[0]}
        return read | {"labels": labels[None].to(self.device)}

    def context(self, known: Batch, *, seed: int = 0) -> Context:
        """What a few examples of each class, drawn from those known, say of their task: as many as the run's tasks
        have.

        Raises:
            InputError: a class has none.
        """
        rows = self.few(known, seed=seed)
        examples = {name: known[name][:, rows.flatten()] for name in ("hidden", "mask", "labels")}
        return Context(known["embedding"][:, rows], None, examples)

    def few(self, known: Batch, *, seed: int = 0) -> Tensor:
        """The numbers of these examples (2, K).

        Raises:
            InputError: a class has none.
        """
        stream = generator(seed, "shots")
        by_class = [(known["labels"][0] == label).nonzero().flatten().cpu() for label in range(2)]
        if not all(len(rows) for rows in by_class):
            raise InputError("train holds one class alone; adapters are made for two")
        n = min(self.n_shot, *map(len, by_class))
        return torch.stack([rows[torch.randperm(len(rows), generator=stream)[:n]] for rows in by_class])

    @exact()
    @torch.no_grad()
    def generate(self, known: Batch, *, seed: int = 0) -> Tensor:
        """Weights (1, D) from a few of the examples that are known, and how many of all are of each class."""
        context = self.context(known, seed=seed)
        return self.counted(self.method.generate(context, generator=generator(seed, "noise")), known)

    def counted(self, w: Tensor, known: Batch) -> Tensor:
        """Weights (1, D) for classes as frequent as they are among examples, where those of w are for as many of each:
        by Bayes the logarithm of a class's frequency is added to its logit."""
        return self.learner.with_bias(w, torch.bincount(known["labels"][0], minlength=2).clamp_min(1).log()[None])

    @exact()
    def train(
        self, w: Tensor, known: Batch, *, steps: int, lr: float, seed: int = 0, inputs_a_step: int = 32
    ) -> Tensor:
        """The weights (1, D) after some of Adam's steps on the examples that are known, some of them a step."""
        batches = shuffled(known, inputs_a_step, generator(seed, "steps"))
        return adapt(self.learner.loss, w, batches, optimizer="adam", lr=lr, record=[steps]).weights[:, 0]

    @torch.no_grad()
    def score(self, w: Tensor, asked: Batch) -> float:
        """The share of a part's texts that weights (1, D) label rightly."""
        right = (self.logits(w, asked).argmax(-1) == asked["labels"][0]).double().mean()
        return right.item()

    @exact()
    @torch.no_grad()
    def logits(self, w: Tensor, asked: Batch) -> Tensor:
        """Of a part's texts with weights (1, D): (M, 2)."""
        rows = torch.arange(asked["labels"].shape[1]).split(self.learner.encoder.texts_together)
        parts = [self.learner.logits(w, asked["hidden"][:, some], asked["mask"][:, some])[0] for some in rows]
        return torch.cat(parts)

    def cut(self, w: Tensor, known: Batch) -> Tensor:
        """Weights (1, D) whose bias is such that they give each class to as many of the examples that are known as are
        of it: of these the labels' frequency is looked at, and not which has which."""
        surplus = self.logits(w, known).diff(dim=-1)[:, 0]
        line = surplus.quantile(1 - known["labels"][0].float().mean())
        return self.learner.with_bias(w, torch.stack([line / 2, -line / 2])[None])


def shuffled(known: Batch, inputs_a_step: int, stream: torch.Generator) -> Iterator[Batch]:
    """A task's examples, some of them a step, in an order that is drawn anew each time all have been there."""
    while True:
        for rows in torch.randperm(known["labels"].shape[1], generator=stream).split(inputs_a_step):
            yield {name: known[name][:, rows] for name in ("hidden", "mask", "labels")}
