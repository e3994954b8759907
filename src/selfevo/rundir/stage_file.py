"""A stage is one file of rows, written once, in the order of its inputs. It survives a kill.

    X.partial.jsonl    results of the current window, as they come; a line cut off by a kill is computed again
    X.growing.jsonl    rows of the earlier windows, in the order of the inputs
    X.jsonl            the growing file when it is complete
    X.done.json        counts and SHA-256 of X.jsonl, written last; without it the stage is not finished

Only one window of rows is in memory, or as many as are worked on at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from selfevo.errors import RunError
from selfevo.method.protocols import Progress
from selfevo.method.rows import Rows
from selfevo.rundir.atomic_files import (
    append,
    file_fault,
    hash_file,
    link,
    make_folder,
    mark_done,
    move,
    read_marker,
    read_rows,
    write_atomic,
)
from selfevo.rundir.layout import done

WINDOW = 4096

T = TypeVar("T")
Result = dict[str, Any]
# Called with the rows of some windows by key and the results so far. Yields the missing results as they
# come, each time with a text for the progress display.
Work = Callable[[Mapping[str, T], Mapping[str, Result]], Iterator[tuple[Mapping[str, Result], str]]]


@dataclass(frozen=True, slots=True)
class StageFile(Generic[T]):
    """X.jsonl at `path`, one line per row.

    `key` is a hash of all that decides a row's result: equal keys, equal results. `line` makes the
    line from a row and its result; its "status" is "ok" or "quarantined". `marker` goes into
    X.done.json. If one of the files `shared` is finished and has the same keys, it is linked
    instead.
    """

    path: Path
    key: Callable[[T], str]
    line: Callable[[T, Result], Mapping[str, Any]]
    marker: Mapping[str, Any] = field(default_factory=dict)
    shared: Sequence[Path] = ()

    def fill(self, rows: Rows[T], work: Work[T], progress: Progress, at_once: int = 1) -> None:
        """Writes the file; does only the work that is missing. `at_once` windows are worked on together.

        Raises RunError if the file is finished and holds other rows, or was changed since.
        """
        name = f"{self.path.parent.name} {self.path.stem}"
        if not done(self.path).exists():
            self._take_over(rows)
        if done(self.path).exists():
            self._check(rows)
            self.path.with_suffix(".partial.jsonl").unlink(missing_ok=True)
            return
        growing, partial = self.path.with_suffix(".growing.jsonl"), self.path.with_suffix(".partial.jsonl")
        make_folder(self.path.parent)
        if self.path.exists():  # killed between its last row and its marker
            move(self.path, growing)
        if not growing.exists():
            append(growing, "")
        digest, counts, place, started = hashlib.sha256(), Counter[str](), 0, False
        left: Iterator[list[T]] = windows(rows)
        with growing.open("rb") as finished:
            for window in left:
                keys = [self.key(row) for row in window]
                lines = list(islice(finished, len(window)))
                if [row.get("key") for row in map(_parse, lines)] != keys:
                    left = chain([window], left)
                    break
                digest.update("".join(keys).encode())
                counts.update(_parse(text)["status"] for text in lines)
                place += sum(map(len, lines))
        for together in iter(lambda: list(islice(left, at_once)), []):
            by_key = {self.key(row): row for window in together for row in window}
            if not started:
                stopped = _results(partial)
            write_atomic(partial, "".join(_partial_line(key, result) for key, result in stopped.items()))
            known = {key: stopped.pop(key) for key in by_key if key in stopped}
            if not started:
                os.truncate(growing, place)
                progress.start(name, len(rows), counts.total() + len(known))
                started = True
            elif known:
                progress.advance(len(known))
            for results, detail in work(by_key, known):
                append(partial, "".join(_partial_line(k, result) for k, result in results.items()))
                known |= results
                progress.advance(len(results), detail)
            for window in together:
                keys = [self.key(row) for row in window]
                digest.update("".join(keys).encode())
                written = [{**self.line(row, known[k]), "key": k} for k, row in zip(keys, window, strict=True)]
                append(growing, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
                counts.update(row["status"] for row in written)
            if not stopped:  # else it has more, of a process that worked on more windows together
                partial.unlink()
        partial.unlink(missing_ok=True)  # killed between the last rows of a window and this
        move(growing, self.path)
        total = {"in": counts.total(), "out": counts["ok"], "quarantined": counts["quarantined"]}
        mark_done(self.path, {**self.marker, "rows": total, "keys": digest.hexdigest()}, hash_file(self.path))
        if started:
            progress.finish(f"{total['in']} in, {total['out']} out, {total['quarantined']} quarantined")

    def _take_over(self, rows: Iterable[T]) -> None:
        finished = [other for other in self.shared if done(other).is_file()]
        if not finished:
            return
        digest = _digest(map(self.key, rows))
        for other in finished:
            with suppress(RunError):  # a damaged file is not taken; the rows are computed here
                marker = read_marker(done(other), sha256=str, keys=str, rows=dict)
                if marker["keys"] == digest and not file_fault(other, marker["sha256"]):
                    self.path.with_suffix(".growing.jsonl").unlink(missing_ok=True)
                    # The marker comes last: it marks the stage as finished.
                    for name in (self.path, done(self.path)):
                        link(other.with_name(name.name), name)
                    return

    def _check(self, rows: Iterable[T]) -> None:
        marker = done(self.path)
        expected = read_marker(marker, sha256=str, keys=str, rows=dict)
        if fault := file_fault(self.path, expected["sha256"]):
            raise RunError(f"{fault}; restore it, or delete it and {marker} to have its rows computed again")
        if expected["keys"] != _digest(map(self.key, rows)):
            raise RunError(
                f"{self.path} holds results for other rows, another model or other settings than those of this run; "
                "use a new output directory"
            )


def _digest(keys: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode())
    return digest.hexdigest()


def windows(rows: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(rows)
    while window := list(islice(iterator, WINDOW)):
        yield window


def _results(partial: Path) -> dict[str, Result]:
    """The results of a stopped process, without a line that was cut off."""
    rows = read_rows(partial) if partial.exists() else iter(())
    return {row["key"]: row["result"] for row in rows}


def _partial_line(key: str, result: Result) -> str:
    return json.dumps({"key": key, "result": result}, ensure_ascii=False) + "\n"


def _parse(line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        row = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(row, dict):
            return row
    return {}
