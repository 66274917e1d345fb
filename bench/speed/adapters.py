"""``python -m bench adapter-speed``: many adapters trained together against one after another with peft, on the same
texts, from the same start, by the same steps -> bench/results/adapter_speed.md.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from bench import RESULTS
from bench.harness import report
from bench.harness.rows import origin
from ltdi.datasets.text_files import read_text_set
from ltdi.learners import Lora
from ltdi.learners.fitting import adapt
from ltdi.learners.peft_io import read_adapter, write_adapter
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.seeding import generator

LR, LENGTH, LAYERS = 2e-3, 40, [3, 6]
LORA: dict[str, Any] = {"rank": 4, "alpha": 8.0, "modules": ("query", "value")}

Texts = list[list[tuple[str, ...]]]


@dataclass(frozen=True)
class Work:
    """Workload of both ways: ``adapters`` trained on as many parts of the texts, LoRA in the last ``layers``."""

    root: Path
    body: str
    adapters: int
    texts: int
    steps: int
    layers: int

    def begun(self) -> tuple[Lora, Tensor, Texts, Tensor]:
        """The learner, where training starts (1, D), the texts of each adapter and their labels (adapters, texts)."""
        learner = Lora(self.body, **LORA, layers=self.layers)
        of, n = read_text_set(self.root, "SST-2", ["train"]), self.texts
        parts = [of.texts["train"][j * n : (j + 1) * n] for j in range(self.adapters)]
        labels = of.labels["train"][: self.adapters * n].view(self.adapters, n)
        return learner, learner.initial(1, 2, generator(0, "speed")), parts, labels


def main(
    root: Annotated[Path, typer.Option(help="GLUE's folder, or a zip of it.")],
    body: Annotated[str, typer.Option(help="A folder of transformers, or a name on the hub.")],
    adapters: Annotated[int, typer.Option(help="How many.")] = 64,
    texts: Annotated[int, typer.Option(help="That each is trained on, all at every step.")] = 8,
    steps: Annotated[int, typer.Option(help="Adam's.")] = 30,
    layers: Annotated[list[int], typer.Option(help="The last ones, which are adapted; a pair of rows each.")] = LAYERS,
) -> None:
    lines, apart = [], 0.0
    for n in layers:
        work, found = Work(root, body, adapters, texts, steps, n), {}
        for name, train in WAYS.items():
            found[name] = in_its_own_process(train, work)
            say(f"{n} layers, {name}: {found[name][0]:.1f} s, {found[name][1]:.0f} MiB")
        slower = found[PEFT][0]
        lines += [[n, name, f"{s:.1f}", f"{slower / s:.1f} ×", f"{mib:.0f}"] for name, (s, mib, _) in found.items()]
        apart = max(apart, (found[TOGETHER][2] - found[PEFT][2]).abs().max().item())
    about: dict[str, Any] = {"adapters": adapters, "body": Path(body).name, "texts": texts, "steps": steps}
    about |= {"rank": LORA["rank"], "length": LENGTH, "apart": f"{apart:.1e}", **origin()}
    write_text(RESULTS / "adapter_speed.md", report.render("adapter_speed", lines=lines, **about))


def in_its_own_process(train: Callable[..., Tensor], work: Work) -> tuple[float, float, Tensor]:
    """Seconds of the processor, MiB at the peak, and the weights (adapters, D)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, train, work).result()


def measured(train: Callable[..., Tensor], work: Work) -> tuple[float, float, Tensor]:
    begun = work.begun()
    started = time.process_time()
    w = train(*begun, work.steps)
    seconds = time.process_time() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, w


def together(learner: Lora, start: Tensor, parts: Texts, labels: Tensor, steps: int) -> Tensor:
    """Weights (B, D); what lies below the lowest adapted layer is read once, a few tasks at a time."""
    size = max(1, learner.inputs_together // labels.shape[1])
    trained = []
    for first in range(0, len(parts), size):
        some = parts[first : first + size]
        tokens = learner.encoder.tokens([text for part in some for text in part], LENGTH)
        read = learner.encoder.read(tokens, learner.lowest)
        batch = {key: read[key].unflatten(0, (len(some), -1)) for key in ("hidden", "mask")}
        batch |= {"labels": labels[first : first + size]}
        w = start.expand(len(some), -1)
        path = adapt(learner.loss, w, repeat(batch), optimizer="adam", lr=LR, record=[steps])
        trained.append(path.weights[:, 0])
    return torch.cat(trained)


def one_by_one(learner: Lora, start: Tensor, parts: Texts, labels: Tensor, steps: int) -> Tensor:
    """The same by peft's model and torch's own Adam, the model loaded once."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    trained, cut = [], {"truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_adapter(folder, learner, start[0])
        plain = AutoModelForSequenceClassification.from_pretrained(learner.body, num_labels=2)
        model = PeftModel.from_pretrained(plain, place, is_trainable=True).eval()
        for name, parameter in model.named_parameters():
            of_head = learner.encoder.head in name and "modules_to_save" in name
            parameter.requires_grad_("lora_" in name or of_head)
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        first = [parameter.detach().clone() for parameter in own]
        for texts, of_task in zip(parts, labels):
            with torch.no_grad():
                for parameter, value in zip(own, first):
                    parameter.copy_(value)
            optimizer = torch.optim.Adam(own, lr=LR)
            columns = [list(column) for column in zip(*texts, strict=True)]
            tokens = learner.encoder.tokenizer(*columns, padding=True, **cut)
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(**tokens).logits, of_task).backward()
                optimizer.step()
            model.save_pretrained(place)
            trained.append(read_adapter(folder, learner.body)[1])
    return torch.stack(trained)


TOGETHER, PEFT = "together", "one after another, peft"
WAYS = {TOGETHER: together, PEFT: one_by_one}
