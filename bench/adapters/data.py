"""The data sets that ``python -m bench adapters`` holds out, and the clock of its rows."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.harness.rows import origin
from ltdi.datasets.text_files import TextSet
from ltdi.inference.adapter_run import AdapterRun
from ltdi.tasks.batch import Batch
from ltdi.utils.devices import device
from ltdi.utils.seeding import generator

Texts = tuple[list[tuple[str, ...]], Tensor]


@dataclass(frozen=True, eq=False)
class Held:
    """A data set held out: its texts with their labels, as the frozen model reads them, and the columns of its rows."""

    name: str
    texts: dict[str, Texts]
    train: Batch
    dev: Batch
    about: dict[str, Any]

    @classmethod
    def of(cls, run: AdapterRun, found: TextSet, hparams: dict[str, Any]) -> "Held":
        """Sample ``hparams["train"]`` training texts and take the first ``hparams["dev"]`` of dev."""
        train, most = some_of_train(found, hparams["train"]), hparams["dev"]
        texts = {"train": train, "dev": (found.texts["dev"][:most], found.labels["dev"][:most])}
        about = {"data_set": found.name, "body": Path(run.learner.body).name, **origin(), "train": len(train[1])}
        about |= {"n_shot": run.n_shot, "inputs_a_step": hparams["inputs_a_step"]}
        about |= {"rank": run.learner.rank, "layers": run.learner.layers or run.learner.encoder.depth}
        return cls(found.name, texts, run.read_texts(*train), run.read_texts(*texts["dev"]), about)

    def row(self, what: str, accuracy: float, seconds: float, steps: int = 0) -> dict[str, Any]:
        n = self.dev["labels"].shape[1]
        return self.about | {"what": what, "steps": steps, "accuracy": accuracy, "n": n, "seconds": seconds}


def some_of_train(of: TextSet, most: int) -> Texts:
    """Sample ``most`` training texts at random: texts, and labels (M,) with the classes' own frequencies."""
    labels = of.labels["train"]
    rows = torch.randperm(len(labels), generator=generator(0, "some of train"))[:most]
    return [of.texts["train"][int(j)] for j in rows], labels[rows]


def clock() -> float:
    """Seconds, of the processor where it computes: other programs may run beside. A GPU has finished before."""
    if device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
