"""``python -m bench adapter-speed``: many adapters trained together against one after another with peft, on the same
texts, from the same start, by the same steps -> bench/results/adapter_speed.md.
"""

import resource
import time
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from bench import BENCH
from bench.machine import origin
from bench.text import table
from ltdi.adaptation import adapt
from ltdi.console import say
from ltdi.datasets.texts import read_text_set
from ltdi.learners import Lora
from ltdi.peft_format import read_adapter, write_adapter
from ltdi.seeding import generator
from ltdi.store import write_text

LR, LENGTH = 2e-3, 40
KNOBS: dict[str, Any] = {"rank": 4, "alpha": 8.0, "modules": ("query", "value")}

Texts = list[list[tuple[str, ...]]]


def main(
    root: Annotated[Path, typer.Option(help="GLUE's folder, or a zip of it.")],
    body: Annotated[str, typer.Option(help="A folder of transformers, or a name on the hub.")],
    adapters: Annotated[int, typer.Option(help="How many.")] = 64,
    texts: Annotated[int, typer.Option(help="That each is trained on, all at every step.")] = 8,
    steps: Annotated[int, typer.Option(help="Adam's.")] = 3,
    layers: Annotated[int, typer.Option(help="The last ones, which are adapted.")] = 2,
) -> None:
    learner = Lora(body, **KNOBS, layers=layers)
    of = read_text_set(root, "SST-2", ["train"])
    parts: Texts = [of.texts["train"][j * texts : (j + 1) * texts] for j in range(adapters)]
    labels = of.labels["train"][: adapters * texts].view(adapters, texts)
    start = learner.initial(1, 2, generator(0, "speed"))
    found = {}
    for name, train in {"together": together, "one after another, peft": one_by_one}.items():
        before, started = _peak(), time.process_time()
        w = train(learner, start, parts, labels, steps)
        found[name] = (time.process_time() - started, _peak() - before, w)
        say(f"{name}: {found[name][0]:.1f} s, {found[name][1]:.0f} MiB more")
    apart = (found["together"][2] - found["one after another, peft"][2]).abs().max().item()
    rows = [[name, f"{seconds:.1f}", f"{peak:.0f}"] for name, (seconds, peak, _) in found.items()]
    ratio = found["one after another, peft"][0] / found["together"][0]
    text = (
        f"# {adapters} adapters, together and one after another\n\n{Path(body).name}, LoRA of rank {KNOBS['rank']} in"
        f" the last {layers} layers and the head, {texts} texts of SST-2 each at {LENGTH} tokens, {steps} steps of Adam"
        " from one start, the reading of the texts counted in both. Seconds of the processor, MiB that the peak rose"
        f" by, on {origin()['device']}, one measurement, other work beside. **{ratio:.1f} ×**; the weights differ by at"
        f" most {apart:.1e}.\n\n"
    )
    write_text(BENCH / "results" / "adapter_speed.md", text + table(["", "seconds", "MiB"], rows))


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

    trained = []
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
            tokens = learner.encoder.tokens(texts, LENGTH)
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(**tokens).logits, of_task).backward()
                optimizer.step()
            model.save_pretrained(place)
            trained.append(read_adapter(folder, learner.body)[1])
    return torch.stack(trained)


def _peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
