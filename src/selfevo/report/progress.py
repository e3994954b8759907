"""Shows the progress of a run: one line per stage with a bar, a rate and the time left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

WIDE = 120  # columns of a terminal with room for the bar itself beside its figures


class Silent:
    """Shows nothing."""

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        pass

    def advance(self, amount: int, detail: str = "") -> None:
        pass

    def finish(self, summary: str = "") -> None:
        pass


class Live:
    """Shows a bar on a terminal. In a file: a line at the start, now and then, and at the end."""

    EVERY_SECONDS = 30.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: RichProgress | None = None
        self.name, self.unit = "", "rows"
        self.begun = self.spoken = 0.0
        self.total = self.done = self.done_before = 0

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.name, self.unit, self.total, self.done, self.done_before = name, unit, total, done, done
        self.begun = self.spoken = time.monotonic()
        resumed = f" ({done} of them done before)" if done else ""
        if not self.console.is_terminal:
            self.console.print(f"{name}: {total} {unit}{resumed} ...")
            return
        bar = (BarColumn(bar_width=30),) if self.console.width >= WIDE else ()
        elapsed = (TimeElapsedColumn(), TextColumn("left")) if self.console.width >= WIDE else ()
        self.bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            *bar,
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[detail]}}", markup=False),
            *elapsed,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.bar.start()
        self.bar.add_task(name, total=total, completed=done, detail="")

    def advance(self, amount: int, detail: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], advance=amount, detail=detail)
        elif now - self.spoken > self.EVERY_SECONDS:
            self.spoken = now
            left = (now - self.begun) / (self.done - self.done_before) * (self.total - self.done)
            done = f"{self.name}: {self.done} of {self.total} {self.unit}"
            self.console.print(", ".join(filter(None, (done, detail, f"{left:.0f} s left"))))

    def finish(self, summary: str = "") -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        seconds = time.monotonic() - self.begun
        self.console.print(Text.assemble(("✓", "green"), f" {self.name:32} {summary}  ", (f"{seconds:.0f} s", "dim")))
