"""One adapter for all tasks, trained on labels, on pairs that nobody has labelled, or on both: candidates for where
adapters start."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.learners import Lora
from ltdi.learners.fitting import adapt
from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.tasks.batch import Batch
from ltdi.tasks.text_examples import N_CLASSES, Examples
from ltdi.tasks.text_pairs import Pairs
from ltdi.tasks.text_tasks import TextTasks
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

WINDOWS = ((0.25, 0.5), (0.5, 1.0))
"""Between which parts of the way weights are averaged, each a candidate of its own."""
AVERAGED = 30
"""How many weights of the whole way there are for these means."""


@dataclass(frozen=True)
class Mixture:
    """What a training is of: a ``share`` of pairs, the rest labelled texts of ``groups``, the numbers of data sets."""

    share: float
    groups: tuple[int, ...]

    def told(self, names: Mapping[int, str]) -> str:
        """In words, ``names`` being those of the data sets by their numbers."""
        parts = ["pairs"] if self.share else []
        return " and ".join([*parts, f"labels of {', '.join(names[j] for j in self.groups)}"] if self.groups else parts)


def mixtures(groups: Sequence[int], pairs: bool, of: Sequence[str | int]) -> list[Mixture]:
    """Those that are asked for: "labels" of all data sets, "pairs" alone, "both", half and half, or by its place among
    the groups half pairs and half labels of one data set. Without pairs labels of all.

    Raises:
        InputError: there is no such place.
    """
    everything = tuple(groups)
    named = {"labels": Mixture(0.0, everything), "both": Mixture(0.5, everything), "pairs": Mixture(1.0, ())}
    if not pairs:
        return [named["labels"]]
    if wrong := [each for each in of if isinstance(each, int) and each >= len(groups)]:
        raise InputError(
            f"learner.joint.of = {wrong[0]} is none of texts.meta_train's; allowed: 0 to {len(groups) - 1}"
        )
    found = [Mixture(0.5, (groups[each],)) if isinstance(each, int) else named[each] for each in of]
    return list(dict.fromkeys(found))


def candidates(
    lora: Lora,
    initialization: Tensor,
    source: TextTasks,
    seed: int,
    *,
    steps: int,
    inputs: int,
    lr: float,
    of: Sequence[str | int],
) -> dict[str, Tensor]:
    """What becomes of one adapter (D,) in ``steps`` of Adam's on ``inputs`` texts each: the mean weights (D,) of each
    of ``WINDOWS`` of each of ``mixtures``, by what they are. Kept in the cache, so that a killed stage does not train
    them again."""
    examples, found = source.of, {}
    names = {group: f"texts.meta_train[{group}]" for group in examples.groups}
    how = {"steps": steps, "inputs": inputs, "lr": lr}
    there = {} if source.pairs is None else source.pairs.tensors()
    known = (lora.facts(), initialization.cpu(), examples.name, there, seed, how)
    mixed = mixtures(examples.groups, source.pairs is not None, of)
    together = max(1, (lora.inputs_together if initialization.device.type == "cpu" else lora.inputs_on_gpu) // inputs)
    for first in range(0, len(mixed), together):
        part = mixed[first : first + together]
        for mixture, means in zip(part, _trained(lora, initialization, source, part, seed, how, known), strict=True):
            for (begin, end), w in zip(WINDOWS, means, strict=True):
                found[f"{mixture.told(names)}, steps {round(begin * steps)} to {round(end * steps)}"] = w
    return found


def _trained(
    lora: Lora,
    initialization: Tensor,
    source: TextTasks,
    of: list[Mixture],
    seed: int,
    how: dict[str, Any],
    known: tuple,
) -> Tensor:
    """(mixtures, windows, D), trained side by side."""
    cache = Cache("joint")
    key = name_of("joint", *known, [[each.share, *each.groups] for each in of], code=(__name__,))
    if kept := cache.find(key):
        return kept[1]["w"].to(initialization)
    steps = how["steps"]
    record = sorted({round(steps * (j + 1) / AVERAGED) for j in range(AVERAGED)} | {steps})
    streams = [batches(source.of, source.pairs, each, how["inputs"], seed) for each in of]
    path = adapt(
        partial(soft_loss, lora),
        initialization.expand(len(of), -1),
        (side_by_side(each) for each in zip(*streams)),
        optimizer="adam",
        lr=how["lr"],
        record=record,
    )
    windows = [[begin * steps < step <= end * steps for step in record] for begin, end in WINDOWS]
    # of a way too short for one there is its end
    rows = [torch.tensor(window).nonzero().flatten() if any(window) else torch.tensor([-1]) for window in windows]
    means = torch.stack([path.weights[:, those].mean(1) for those in rows], 1)
    cache.keep(key, {"w": means.cpu()}, {})
    return means


def side_by_side(parts: tuple[Batch, ...]) -> Batch:
    """Batches of one task each as one of several."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def soft_loss(lora: Lora, w: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the shares of the classes, w (B, D) -> (B,)."""
    logits = lora.logits(w, batch["hidden"], batch["mask"])
    return -(batch["shares"] * logits.log_softmax(-1)).sum(-1).mean(1)


def batches(of: Examples, pairs: Pairs | None, mixture: Mixture, n: int, seed: int) -> Iterator[Batch]:
    """Batches of n texts of one task, drawn anew at every step: of pairs their share, and examples of the data sets and
    their classes, as many of each, of train parts alone."""
    stream = generator(seed, "joint start")
    n_pairs, where = round(mixture.share * n), of.label.device
    pools = [of.rows(group, label, dev=False) for group in mixture.groups for label in range(N_CLASSES)]
    sizes = torch.tensor([len(pool) for pool in pools])
    first = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)[:-1]])
    everything = torch.cat(pools) if pools else torch.empty(0, dtype=torch.long)
    while True:
        parts: list[Batch] = []
        if n_pairs < n:
            # of which kinds there is one more, where they do not come out even, changes
            kinds = (torch.arange(n - n_pairs) + torch.randint(len(pools), (), generator=stream)) % len(pools)
            spots = (torch.rand(len(kinds), generator=stream, dtype=torch.float64) * sizes[kinds]).long()
            known = of.batch(everything[(first[kinds] + spots).to(where)][None])
            shares = nn.functional.one_hot(known["labels"], N_CLASSES).to(of.embedding)
            parts.append({"hidden": known["hidden"], "mask": known["mask"], "shares": shares})
        if pairs and n_pairs:
            parts.append(pairs.batch(torch.randint(len(pairs), (1, n_pairs), generator=stream).to(where)))
        yield {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
