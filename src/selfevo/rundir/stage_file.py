"""A stage is one file of rows, written once, in the order of its inputs. It survives a kill.

    X.partial.jsonl    results of the current window, as they come; a line cut off by a kill is computed again
    X.growing.jsonl    rows of the earlier windows, in the order of the inputs
    X.jsonl            the growing file when it is complete
    X.done.json        counts and SHA-256 of X.jsonl, written last; without it the stage is not finished

Only one window of rows is in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
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
# Called with the rows of a window by key and the results so far. Yields the missing results as they
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

    def fill(self, rows: Rows[T], work: Work[T], progress: Progress) -> None:
        """Writes the file; does only the work that is missing.

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
        with growing.open("rb") as finished:
            for window in _windows(rows):
                keys = [self.key(row) for row in window]
                digest.update("".join(keys).encode())
                lines = list(islice(finished, len(window))) if not started else []
                if not started and [row.get("key") for row in map(_parse, lines)] == keys:
                    counts.update(_parse(text)["status"] for text in lines)
                    place += sum(map(len, lines))
                    continue
                by_key = dict(zip(keys, window, strict=True))
                known = _results(partial, by_key)
                if not started:
                    os.truncate(growing, place)
                    progress.start(name, len(rows), counts.total() + sum(k in known for k in keys))
                    started = True
                for results, detail in work(by_key, known):
                    append(partial, "".join(_partial_line(k, result) for k, result in results.items()))
                    known |= results
                    progress.advance(len(results), detail)
                written = [{**self.line(row, known[k]), "key": k} for k, row in zip(keys, window, strict=True)]
                append(growing, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
                counts.update(row["status"] for row in written)
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


def _windows(rows: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(rows)
    while window := list(islice(iterator, WINDOW)):
        yield window


def _results(partial: Path, wanted: Mapping[str, T]) -> dict[str, Result]:
    """The results of this window from a stopped process. Removes a line that was cut off."""
    rows = read_rows(partial) if partial.exists() else iter(())
    done = {row["key"]: row["result"] for row in rows if row["key"] in wanted}
    write_atomic(partial, "".join(_partial_line(key, result) for key, result in done.items()))
    return done


def _partial_line(key: str, result: Result) -> str:
    return json.dumps({"key": key, "result": result}, ensure_ascii=False) + "\n"


def _parse(line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        row = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(row, dict):
            return row
    return {}
