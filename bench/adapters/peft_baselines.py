"""Baselines of the paper's Table 5, trained with ``peft``: full fine-tuning, AdaLoRA (Zhang et al. 2023) and FourierFT
(Gao et al. 2024).

Texts, batches, number of steps and layers are those of LoRA in the same table, and as there no dropout; rates are of
the published order: 1e-4, 2e-3, and 5e-2 with 2e-3 for the head.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.adapters.data import Texts
from ltdi.learners import Lora
from ltdi.utils.devices import device
from ltdi.utils.seeding import generator

RATES = {"full": 1e-4, "adalora": 2e-3, "fourierft": 5e-2}
HEAD_RATE = 2e-3
N_FREQUENCY, SCALING = 1000, 150.0


def scores_by_steps(
    kind: str,
    learner: Lora,
    train: Texts,
    dev: Texts,
    *,
    steps: Sequence[int],
    length: int,
    inputs_a_step: int,
    seed: int,
    clock: Callable[[], float],
) -> Iterator[tuple[int, float, float]]:
    """After each of ``steps``: their number, the accuracy on dev, and the seconds of the steps up to there. ``kind`` is
    a key of ``RATES``; ``learner`` has the model, layers and modules."""
    model, where = _model(kind, learner, steps[-1]).to(device()), device()
    of_head: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (of_head if learner.encoder.head in name else others).append(parameter)
    head: dict[str, Any] = {"params": of_head, "lr": RATES[kind] if kind == "full" else HEAD_RATE}
    optimizer, labels = torch.optim.Adam([head, {"params": others, "lr": RATES[kind]}]), train[1].to(where)
    support, query = (_tokens(learner, texts, length, where) for texts, _ in (train, dev))
    order, seconds = _order(len(labels), inputs_a_step, generator(seed, "steps")), 0.0
    for step in range(1, steps[-1] + 1):
        rows, started = next(order), clock()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**support(rows)).logits, labels[rows.to(where)]).backward()
        optimizer.step()
        if kind == "adalora":
            model.base_model.update_and_allocate(step)
        seconds += clock() - started
        if step in steps:
            yield step, _accuracy(model, query, dev[1].to(where), learner.encoder.texts_together), seconds


def _model(kind: str, learner: Lora, steps: int) -> Any:
    import peft
    from transformers import AutoModelForSequenceClassification as Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = Model.from_pretrained(learner.body, num_labels=2, dtype=torch.float32).eval()
        if kind == "full":
            return plain
        layers = list(range(learner.lowest, learner.encoder.depth))
        where: dict[str, Any] = {"target_modules": list(learner.modules), "layers_to_transform": layers}
        where["task_type"] = "SEQ_CLS"
        if kind == "fourierft":
            config: Any = peft.FourierFTConfig(**where, n_frequency=N_FREQUENCY, scaling=SCALING)
        else:
            ranks: dict[str, Any] = {"init_r": learner.rank + learner.rank // 2, "target_r": learner.rank}
            ranks |= {"lora_alpha": learner.alpha, "lora_dropout": 0.0, "deltaT": 10}
            when: dict[str, Any] = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 2}
            config = peft.AdaLoraConfig(**where, **ranks, **when)
        return peft.get_peft_model(plain, config).eval()


def _order(n: int, inputs_a_step: int, stream: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(n, generator=stream).split(inputs_a_step)


def _tokens(learner: Lora, texts: Any, length: int, where: torch.device) -> Callable[[Tensor], Any]:
    """Texts as tokens, read once: some rows of them padded to the longest of these."""
    tokenizer = learner.encoder.tokenizer
    read = tokenizer(*(list(column) for column in zip(*texts, strict=True)), truncation=True, max_length=length)

    def padded(rows: Tensor) -> Any:
        some = {name: [values[j] for j in rows.tolist()] for name, values in read.items()}
        return tokenizer.pad(some, return_tensors="pt").to(where)

    return padded


@torch.no_grad()
def _accuracy(model: Any, query: Callable[[Tensor], Any], labels: Tensor, together: int) -> float:
    parts = torch.arange(len(labels)).split(together)
    right = [model(**query(rows)).logits.argmax(-1) == labels[rows.to(labels.device)] for rows in parts]
    return torch.cat(right).double().mean().item()
