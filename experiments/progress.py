"""What a person sees while long work goes on: lines that stay, and one line that moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Reporter"]

_LINE_SECONDS = 15.0  # between two lines where the output is a file and nothing can move


class Reporter:
    """Prints to a console; on a terminal with moving bars, into a file with a line now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[float, str], None]]:
        """Inside, call the result with the number of finished items, about, and a short text about the last one."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(what, total=total, note="")
                yield lambda done, note: progress.update(task, completed=done, note=note)
            return
        started = last = time.monotonic()

        def show(done: float, note: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _LINE_SECONDS and done:
                last = now
                left = (now - started) / done * (total - done)
                self.say(f"  {what}: {done:.0f} of {total}, about {left:.0f} s left  {note}")

        yield show
