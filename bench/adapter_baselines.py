"""What the adapters of the paper's Table 5 stand beside, through ``peft`` as a user has it: full fine-tuning, AdaLoRA
(Zhang et al. 2023) and FourierFT (Gao et al. 2024).

Texts, batches, number of steps and layers are those of LoRA in the same table, and as there no dropout; rates are of
the published order: 1e-4, 2e-3, and 5e-2 with 2e-3 for the head.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.learners import Lora
from ltdi.utils.devices import device
from ltdi.utils.seeding import generator

Texts = list[tuple[str, ...]]
RATES = {"full": 1e-4, "adalora": 2e-3, "fourierft": 5e-2}
HEAD_RATE = 2e-3
N_FREQUENCY, SCALING = 1000, 150.0


def scores_by_steps(
    kind: str,
    learner: Lora,
    train: tuple[Texts, Tensor],
    dev: tuple[Texts, Tensor],
    *,
    steps: Sequence[int],
    length: int,
    inputs_a_step: int,
    seed: int,
    clock: Callable[[], float],
) -> Iterator[tuple[int, float, float]]:
    """After each of ``steps``: their number, the accuracy on dev, and the seconds of the steps up to there. ``kind`` is
    a key of ``RATES``; ``learner`` says of which model, layers and modules."""
    model, where = _model(kind, learner, steps[-1]).to(device()), device()
    optimizer, labels = _optimizer(kind, model, learner.encoder.head), train[1].to(where)
    known, asked = (_Tokens(learner, texts, length, where) for texts, _ in (train, dev))
    order, seconds = _order(len(labels), inputs_a_step, generator(seed, "steps")), 0.0
    for step in range(1, steps[-1] + 1):
        rows, started = next(order), clock()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**known.padded(rows)).logits, labels[rows.to(where)]).backward()
        optimizer.step()
        if kind == "adalora":
            model.base_model.update_and_allocate(step)
        seconds += clock() - started
        if step in steps:
            yield step, _accuracy(model, asked, dev[1].to(where), learner.encoder.texts_together), seconds


def _model(kind: str, learner: Lora, steps: int) -> Any:
    import peft
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = AutoModelForSequenceClassification.from_pretrained(
            learner.body, num_labels=2, dtype=torch.float32
        ).eval()
        layers = list(range(learner.lowest, learner.encoder.depth))
        where: dict[str, Any] = {"target_modules": list(learner.modules), "layers_to_transform": layers}
        where |= {"task_type": "SEQ_CLS"}
        if kind == "full":
            return plain
        if kind == "adalora":
            ranks: dict[str, Any] = {
                "init_r": learner.rank + learner.rank // 2,
                "target_r": learner.rank,
                "lora_alpha": learner.alpha,
            }
            when: dict[str, Any] = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 2, "deltaT": 10}
            return peft.get_peft_model(plain, peft.AdaLoraConfig(**where, **ranks, **when, lora_dropout=0.0)).eval()
        return peft.get_peft_model(
            plain, peft.FourierFTConfig(**where, n_frequency=N_FREQUENCY, scaling=SCALING)
        ).eval()


def _optimizer(kind: str, model: nn.Module, head: str) -> torch.optim.Optimizer:
    of_head: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (of_head if head in name else others).append(parameter)
    rates: list[dict[str, Any]] = [{"params": of_head, "lr": RATES[kind] if kind == "full" else HEAD_RATE}]
    return torch.optim.Adam([*rates, {"params": others, "lr": RATES[kind]}])


def _order(n: int, inputs_a_step: int, stream: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(n, generator=stream).split(inputs_a_step)


class _Tokens:
    """Texts as tokens, read once; some of them padded to the longest of these."""

    def __init__(self, learner: Lora, texts: Texts, length: int, where: torch.device) -> None:
        self.tokenizer, self.where = learner.encoder.tokenizer, where
        columns = [list(column) for column in zip(*texts, strict=True)]
        self.all = self.tokenizer(*columns, truncation=True, max_length=length)

    def padded(self, rows: Tensor) -> Any:
        some = {name: [values[j] for j in rows.tolist()] for name, values in self.all.items()}
        return self.tokenizer.pad(some, return_tensors="pt").to(self.where)


@torch.no_grad()
def _accuracy(model: Any, asked: _Tokens, labels: Tensor, together: int) -> float:
    right = [
        model(**asked.padded(rows)).logits.argmax(-1) == labels[rows.to(labels.device)]
        for rows in torch.arange(len(labels)).split(together)
    ]
    return torch.cat(right).double().mean().item()
