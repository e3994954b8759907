"""The account book of a run: what its calls of a server have cost, those that failed and over all its processes too.

Its lines stand in events.jsonl. A "call" is written before the call is made, with the most it can cost; its bill when
it ended, as an event that is named like the last part of the stage. A call that a killed process left without its bill
counts with its most: the server may have answered it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfevo.rundir.atomic_files import read_rows, space_for
from selfevo.rundir.layout import Layout

_FIGURES = ("seconds", "call", "rows", "sequences", "tokens", "prompt_tokens", "new_tokens", "dollars", "rounds")
_LARGEST = 2**63  # a figure that `write_event` writes is below it


@dataclass(frozen=True, slots=True)
class Cost:
    """In tokens and US dollars; no dollars where the price is not known."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.prompt_tokens + other.prompt_tokens, self.new_tokens + other.new_tokens, self.dollars + other.dollars
        )


class Ledger:
    """What the calls for one stage of the run directory `root` have cost; without `root`, kept in memory alone."""

    def __init__(self, root: Path | None = None, stage: str = "") -> None:
        self.root, self.stage, self.spent = root, stage, Cost()
        self._calls, self._unbilled = 0, dict[int, Cost]()
        for event in read_events(root) if root else ():
            if event["stage"] != stage:
                continue
            if event["event"] == "call":
                self._calls = int(event["call"])
                self._unbilled[self._calls] = Cost(*event["most"])
                continue
            self._unbilled.pop(event.get("call", 0), None)
            self.spent += Cost(event.get("prompt_tokens", 0), event.get("new_tokens", 0), event.get("dollars", 0.0))
        for call, most in list(self._unbilled.items()):
            self.bill(call, most)

    def call(self, most: Cost) -> int:
        """Notes that a call will be made that can cost `most`; returns its number."""
        self._calls += 1
        self._unbilled[self._calls] = most
        self._write("call", call=self._calls, most=(most.prompt_tokens, most.new_tokens, most.dollars))
        return self._calls

    def bill(self, call: int, cost: Cost) -> None:
        """Notes what the call cost."""
        self.spent += cost
        self._write(
            self.stage.rpartition("/")[2],
            call=call,
            prompt_tokens=cost.prompt_tokens,
            new_tokens=cost.new_tokens,
            dollars=round(cost.dollars, 9),
        )
        del self._unbilled[call]

    def _write(self, kind: str, **figures: object) -> None:
        if self.root:
            write_event(self.root, kind, stage=self.stage, seconds=0, **figures)


def read_events(root: Path) -> Iterator[dict[str, Any]]:
    """The lines of events.jsonl. One that `write_event` did not write is passed over, like a line that was cut off."""
    path = Layout(root).events
    for event in read_rows(path) if path.is_file() else ():
        figures = (event.get(name, 0) for name in _FIGURES)
        whole = isinstance(event.get("event"), str) and isinstance(event.get("stage"), str) and "seconds" in event
        if whole and all(isinstance(figure, int | float) and abs(figure) < _LARGEST for figure in figures):
            yield event


def finished_rounds(root: Path) -> int | None:
    """The number of rounds with which the run in `root` is finished. None if it is not: it has begun more since."""
    asked, finished = 0, None
    for event in read_events(root):
        if event["event"] == "start":
            asked = event.get("rounds", asked)
        elif event["event"] == "finish":
            finished = event.get("rounds", asked)
    return finished if finished is not None and finished >= asked else None


def write_event(root: Path, kind: str, *, stage: str, seconds: float, **figures: object) -> None:
    """Adds a line to events.jsonl."""
    line = json.dumps({"event": kind, "stage": stage, "seconds": round(seconds, 3), **figures})
    path = Layout(root).events
    with space_for(path, len(line)), path.open("a+b") as file:
        if file.tell() > 0:  # a kill may have left half a line
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")
