"""What a stage shows while it works: a bar with rate, loss and time left; plain lines when not on a terminal."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ltdi.utils.console import console

SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_LOOKS = 15.0, 0.2


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-")


Row = TypeVar("Row", bound=Mapping[str, Any])


def follow(rows: Iterable[Row], *, name: str, total: int, done: int = 0, show: str = "loss") -> Iterator[Row]:
    """Pass rows through, showing how far they have come; ``show`` is the column shown beside the bar."""
    if console.is_terminal:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(name, total=total, completed=done, shown="")
            looked = 0.0
            for row in rows:
                bar.advance(task)
                if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:  # a number on a GPU is waited for
                    looked = time.monotonic()
                    bar.update(task, shown=f"{show} {row[show]:.4g}" if show in row else "")
                yield row
        return
    started = last = time.monotonic()
    first = done
    for row in rows:
        done += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or (done == total and now - started > 2):
            rate = (done - first) / (now - started)
            shown = f", {show} {row[show]:.4g}" if show in row else ""
            console.print(f"{name}: {done}/{total}, {rate:.1f}/s{shown}, {(total - done) / rate:.0f} s left")
            last = now
        yield row
