"""``python -m bench speed``: how fast the hot paths are -> bench/results/speed.md, of a GPU speed_card.md.

Of each the rate; the ratio to what a user would write, measured alternately with it in one process; and the share of
the peak: the rate of its products of matrices and convolutions over that of one large product, at that time, on that
many threads. Figures are medians of the pairs, with the range that holds half of them. And how many operations a call
is: where they are small, a GPU waits to be told of each.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench import RESULTS
from bench.harness import report
from bench.harness.rows import origin
from bench.speed.hot_paths import HotPath, hot_paths
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device

SIDE = 1024
"""Of the square matrices whose product is the peak."""
LEAST = 0.03

Threads = Annotated[list[int], typer.Option(help="May be repeated; a GPU has rows of its own, of one thread.")]
Pairs = Annotated[int, typer.Option(help="How many pairs of measurements a row is the median of.")]
Only = Annotated[str, typer.Option(help="The hot paths whose name has this in it.")]
THREADS = [1, 2]


@dataclass(frozen=True)
class Measured:
    """Pair by pair: units of work a second, what a user would write, and the peak's share; how many operations a call
    of ours is."""

    rates: list[float]
    ratios: list[float]
    shares: list[float]
    operations: int


class Operations(TorchDispatchMode):
    """How many of torch's operations are called, of those that compute: views, and numbers that are read, are none."""

    NONE = ("aten._unsafe_view.default", "aten._local_scalar_dense.default")

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += not (func.is_view or str(func) in self.NONE)
        return func(*args, **(kwargs or {}))


@contextmanager
def one_thread() -> Iterator[None]:
    """Counters do not see the work of other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def operations(call: Callable[[], object]) -> int:
    with one_thread(), Operations() as counted:
        call()
    return counted.n


def main(threads: Threads = THREADS, pairs: Pairs = 9, only: Only = "") -> None:
    deterministic()
    where, before = device(), torch.get_num_threads()
    lines = []
    for n in threads if where.type == "cpu" else [before]:
        torch.set_num_threads(n)
        for path in hot_paths(where):
            if only in path.name:
                say(f"bench speed: {path.name}, {n} threads")
                lines.append(line(path, measure(path, where, pairs), str(n) if where.type == "cpu" else "card"))
    torch.set_num_threads(before)
    about = origin()
    about["device"] = about["device"].partition(",")[0]
    text = report.render("speed", lines=lines, pairs=pairs, side=SIDE, **about)
    if not only:
        write_text(RESULTS / ("speed.md" if where.type == "cpu" else "speed_card.md"), text)
    print(text)


def measure(path: HotPath, where: torch.device, pairs: int) -> Measured:
    matrix = torch.randn(SIDE, SIDE, device=where).to(path.products)
    flops = _flops(path)
    for call in (path.ours, path.plain, lambda: matrix @ matrix):
        call()
    found = Measured([], [], [], operations(path.ours))
    for _ in range(pairs):
        ours, plain = _seconds(path.ours, where) / path.n, _seconds(path.plain, where) / path.n_plain
        peak = 2 * SIDE**3 / min(_seconds(lambda: matrix @ matrix, where) for _ in range(3))
        found.rates.append(1 / ours)
        found.ratios.append(plain / ours)
        found.shares.append(flops / ours / peak)
    return found


def _flops(path: HotPath) -> float:
    """Of products of matrices and convolutions, a unit."""
    with one_thread(), FlopCounterMode(display=False) as counter:
        path.ours()
    return counter.get_total_flops() / path.n


def _seconds(call: Callable[[], object], where: torch.device) -> float:
    """Of a call, in the mean of as many as last ``LEAST`` seconds: of short ones the first finds an empty cache."""
    n, started = 0, time.perf_counter()
    while n == 0 or time.perf_counter() - started < LEAST:
        call()
        if where.type == "cuda":
            torch.cuda.synchronize()
        n += 1
    return (time.perf_counter() - started) / n


def line(path: HotPath, found: Measured, threads: str) -> list[str]:
    rate = statistics.median(found.rates)
    shown = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
    ratio = f"{statistics.median(found.ratios):.1f} ({_half(found.ratios, '.1f')})"
    share = f"{100 * statistics.median(found.shares):.0f} % ({_half([100 * s for s in found.shares], '.0f')})"
    return [path.name, threads, f"{shown} {path.unit} a second", ratio, path.beside, share, f"{found.operations:,}"]


def _half(values: list[float], form: str) -> str:
    """The range that holds the middle half."""
    if len(values) < 2:
        return f"{values[0]:{form}}"
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:{form}} to {high:{form}}"
