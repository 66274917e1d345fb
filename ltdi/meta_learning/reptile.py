"""REPTILE (Nichol et al. 2018; Algorithm 2 of Lt-Di): outer and inner loop, the inner one vectorised over tasks."""

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
"""φ: parameters of a module by name."""
CURRENT_PARAMETERS: Phi = MappingProxyType({})
"""The empty φ: the module is evaluated with its current parameters."""


def functional_forward(module: nn.Module, phi: Phi, *inputs: Any) -> Any:
    """Evaluate a module at parameters φ; with ``CURRENT_PARAMETERS``, call it directly.

    ``torch.func.functional_call`` with the module's own parameters would take a third of the time of a small batch.
    """
    return functional_call(module, dict(phi), inputs) if phi else module(*inputs)


def meta_step(
    training: Training,
    loss: Callable[[Phi, Mapping[str, Any]], Tensor],
    parts: list[list[Mapping[str, Any]]],
    *,
    inner_optimizer: str,
    inner_lr: float,
) -> Tensor:
    """Take one outer step on φ, the parameters of ``training.model``; return the mean loss of the first inner step ().

    From the same φ, inner steps on each task's loss lead to φ_i; the outer optimizer (Adam) gets the pseudo-gradient
    φ − mean φ_i, summed over the parts. A plain average at the paper's rate would move 0.1 % of the way.

    One inner step of SGD is joint training and computed as such: φ − mean φ_i is then the rate times the gradient of
    the mean loss. In distributed runs each rank takes its share of the tasks and all ranks the same step.

    Args:
        training: the model, its outer optimizer and schedule.
        loss: (φ, batch) -> mean loss over the tasks of a batch.
        parts: groups of tasks of one size. A group has one dict of tensors (B, …) for each inner step, the same B
            tasks in each; the mean losses of the groups add up.
        inner_optimizer: "sgd" or "adam".
        inner_lr: learning rate of the inner steps.
    """
    phi = dict(training.model.named_parameters())
    mine = list(_rank_share(parts))
    if len(parts[0]) == 1 and inner_optimizer == "sgd":
        losses = [(share, loss(CURRENT_PARAMETERS, batches[0])) for share, batches in mine]
        if losses:
            (inner_lr * weighted_sum(losses)).backward()
    else:
        start = {name: value.detach() for name, value in phi.items()}
        loops = [(share, *_inner_loops(start, loss, batches, inner_optimizer, inner_lr)) for share, batches in mine]
        for name, value in phi.items():
            value.grad = weighted_sum((share, each[name].mean(0)) for share, each, _ in loops) if loops else None
        losses = [(share, first) for share, _, first in loops]
    zero = next(iter(phi.values())).new_zeros(())
    mean_loss = weighted_sum((share, each.detach()) for share, each in losses) if losses else zero
    _all_reduce(phi, mean_loss)
    training.descend()
    return mean_loss


def weighted_sum(parts: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Return Σ share·value over (share, value) pairs. A share of 1 is not multiplied, which saves a kernel launch."""
    return reduce(torch.add, (value if share == 1 else share * value for share, value in parts))


def _rank_share(parts: list[list[Mapping[str, Any]]]) -> Iterator[tuple[float, list[Mapping[str, Any]]]]:
    """Yield this rank's tasks of each group with their share of the group; all tasks and 1.0 without other ranks."""
    for batches in parts:
        n = batch_size(batches[0])
        share = distributed.share(n)
        rows = range(n)[share]
        if len(rows) == n:
            yield 1.0, batches
        elif rows:
            yield len(rows) / n, [map_batch(itemgetter(share), batch) for batch in batches]


def _all_reduce(phi: Phi, mean_loss: Tensor) -> None:
    """Sum gradients and loss over all ranks, in place."""
    if distributed.size() > 1:
        for value in phi.values():
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        distributed.add_up([mean_loss, *(value.grad for value in phi.values() if value.grad is not None)])


def _inner_loops(
    phi: Phi, loss: Callable, batches: list[Mapping[str, Any]], optimizer: str, lr: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Return φ − φ_i of every task (B, …), and the mean loss at φ.

    The steps are summed apart from φ: subtracting two numbers near 1 would round small steps away.
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
