"""REPTILE (Nichol et al. 2018; Algorithm 2): two loops, the inner one vectorised over tasks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from ltdi.tasks.batch import batch_size, map_batch
from ltdi.utils import distributed
from ltdi.utils.trainer import Training

Phi = Mapping[str, Tensor]
OWN: Phi = MappingProxyType({})
"""No parameters given: what is called has its own."""


def called(module: nn.Module, phi: Phi, *inputs: Any) -> Any:
    """What a module with the parameters φ makes of its inputs; ``OWN`` are its own, left where they are: to put them
    there takes a third of the time of a small batch."""
    return functional_call(module, dict(phi), inputs) if phi else module(*inputs)


def meta_step(
    training: Training,
    loss: Callable[[Phi, Mapping[str, Any]], Tensor],
    parts: list[list[Mapping[str, Any]]],
    *,
    inner_optimizer: str,
    inner_lr: float,
) -> Tensor:
    """One outer step on φ, the parameters of ``training.model``; the mean loss of the first inner step, on its device.

    ``loss(φ, batch)`` is the mean over the tasks of a batch; ``OWN`` are the model's φ as they are. A part of ``parts``
    is tasks of one size: one dict of tensors (B, …) for each inner step, the same B tasks in each; the parts' mean
    losses add up. From the same φ, the inner steps on a task's own loss give φ_i; Adam then gets the pseudo-gradient
    φ − mean φ_i, summed over the parts, where a plain average at the paper's rate would move 0.1 % of the way.

    One inner step of SGD is joint training, and computed as such: φ − mean φ_i is the rate times the
    gradient of the mean loss.

    Of several processes (``ranks``) each works on some of the tasks; all of them take the step of all.
    """
    phi = dict(training.model.named_parameters())
    own = list(_own_share(parts))
    if len(parts[0]) == 1 and inner_optimizer == "sgd":
        losses = [(share, loss(OWN, batches[0])) for share, batches in own]
        if losses:
            (inner_lr * weighted(losses)).backward()
    else:
        start = {name: value.detach() for name, value in phi.items()}
        loops = [(share, *_inner_loops(start, loss, batches, inner_optimizer, inner_lr)) for share, batches in own]
        for name, value in phi.items():
            value.grad = weighted((share, each[name].mean(0)) for share, each, _ in loops) if loops else None
        losses = [(share, first) for share, _, first in loops]
    of_none = next(iter(phi.values())).new_zeros(())
    mean_loss = weighted((share, each.detach()) for share, each in losses) if losses else of_none
    _add_up(phi, mean_loss)
    training.descend()
    return mean_loss


def weighted(parts: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Σ share·value of one part or more. A share of 1 is no operation: where values are small, each of these counts."""
    return reduce(torch.add, (value if share == 1 else share * value for share, value in parts))


def _own_share(parts: list[list[Mapping[str, Any]]]) -> Iterator[tuple[float, list[Mapping[str, Any]]]]:
    """Of several processes each takes some tasks of each part, and counts for as many: 1 and all, where it is alone."""
    for batches in parts:
        n = batch_size(batches[0])
        share = distributed.share(n)
        rows = range(n)[share]
        if len(rows) == n:
            yield 1.0, batches
        elif rows:
            yield len(rows) / n, [map_batch(itemgetter(share), batch) for batch in batches]


def _add_up(phi: Phi, mean_loss: Tensor) -> None:
    """Gradients and loss of all processes' shares."""
    if distributed.size() > 1:
        for value in phi.values():
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        distributed.add_up([mean_loss, *(value.grad for value in phi.values() if value.grad is not None)])


def _inner_loops(
    phi: Phi, loss: Callable, batches: list[Mapping[str, Any]], optimizer: str, lr: float
) -> tuple[dict[str, Tensor], Tensor]:
    """φ − φ_i of every task (B, …), and the mean loss at φ.

    The steps are summed apart from φ: the difference of two numbers near 1 would lose small ones.
    """

    def of_one_task(phi_i: Phi, row: Mapping[str, Any]) -> Tensor:
        return loss(phi_i, map_batch(lambda value: value[None], row))

    gradients = vmap(grad_and_value(of_one_task), randomness="different")
    B = batch_size(batches[0])
    moved = {name: value.new_zeros(B, *value.shape) for name, value in phi.items()}
    m, v = dict(moved), dict(moved)
    first_loss = torch.zeros(())
    for step, batch in enumerate(batches, start=1):
        g, losses = gradients({name: phi[name] - moved[name] for name in phi}, batch)
        first_loss = losses.mean() if step == 1 else first_loss
        if optimizer == "adam":
            m = {name: torch.lerp(g[name], m[name], 0.9) for name in g}
            v = {name: torch.lerp(g[name].square(), v[name], 0.999) for name in g}
            g = {name: m[name] / (1 - 0.9**step) / ((v[name] / (1 - 0.999**step)).sqrt() + 1e-8) for name in g}
        moved = {name: value + lr * g[name] for name, value in moved.items()}
    return moved, first_loss
