"""More rounds on a run that has begun.

A round that has begun keeps its prompts. The others share what is left of the pool and what was added to its end, so
nothing that is on disk changes. What held before each change of the number of rounds is in config.json, under
"continued".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from selfevo.config.run_config import PROMPTS_PER_ROUND, RunConfig
from selfevo.config.sources import TaskPrompts
from selfevo.data.tables import BadRow
from selfevo.errors import DataError, RunError
from selfevo.method.names import round_number
from selfevo.method.records import Prompt
from selfevo.rundir.atomic_files import read_counts, read_marker, read_rows
from selfevo.rundir.inspect import is_finished, is_run
from selfevo.rundir.layout import Layout, done


@dataclass(frozen=True, slots=True)
class Before:
    """What held before a change of the number of rounds."""

    rounds: int
    count: int | None  # problems that were drawn, if the prompts are those of a task
    pool: int  # prompts of the pool
    begun: tuple[int, ...]  # prompts of each round that had begun


@dataclass(frozen=True, slots=True)
class Course:
    """The number of rounds of a run, over all its starts. `changed`: this start changes it."""

    rounds: int
    count: int | None = None
    past: tuple[Before, ...] = ()
    changed: bool = False
    set_aside: tuple[tuple[BadRow, ...], ...] = ()  # rows of each file of quarantined rows that is there

    @property
    def listed(self) -> list[int]:
        """The number of rounds at each change."""
        return [*(each.rounds for each in self.past), self.rounds]

    @property
    def drawn(self) -> list[int]:
        """How many prompts a task has to draw at each change, in addition to those before."""
        totals = list(accumulate([*(each.count or 0 for each in self.past), self.count or 0], max))
        return [after - before for before, after in pairwise([0, *totals])]

    @property
    def may_change(self) -> tuple[str, ...]:
        """The keys that this start may change."""
        if not self.changed:
            return ()
        last = self.past[-1].count if self.past else None
        less = last is not None and self.count is not None and self.count < last
        return ("rounds",) if less else ("rounds", "prompts.count")

    def known_to(self, number: int) -> int:
        """How many rounds were listed when round `number` was."""
        return next(listed for listed in self.listed if number <= listed)

    def shared_out(self, pool: Sequence[Prompt]) -> list[list[Prompt]]:
        """The prompts of each round. Raises DataError if a round would get none."""
        begun = self.past[-1].begun if self.past else ()
        begun, waiting = begun[: self.rounds], max(0, self.rounds - len(begun))
        left = len(pool) - sum(begun)
        if left < waiting and begun:
            at_the_end = "add prompts at the end of prompts.path, and raise prompts.count if it is set"
            raise DataError(
                f"rounds is {self.rounds}, but {_rounds(1, len(begun))} took {sum(begun)} of the {len(pool)} prompts "
                f"of the pool, which leaves {left} for {_rounds(len(begun) + 1, self.rounds)}; "
                + ("raise prompts.count" if self.count else at_the_end)
            )
        if left < waiting:
            raise DataError(f"the pool has {len(pool)} prompts for rounds={self.rounds}; add prompts or lower rounds")
        ends = [0, *accumulate([*begun, *shares(left, waiting)])]
        return [list(pool[start:end]) for start, end in pairwise(ends)]

    def pool_files(self, pool: Sequence[Prompt]) -> list[tuple[str, Sequence[Prompt]]]:
        """The files of data/ with the pool: each change has one for the prompts that it added."""
        ends = [0, *(each.pool for each in self.past), len(pool)]
        return [(name, pool[ends[i] : ends[i + 1]]) for i, name in enumerate(_names("pool", self.past))]

    def quarantined_files(self, rows: Sequence[BadRow]) -> list[tuple[str, Sequence[BadRow]]]:
        """The files of data/ with the rows that were set aside: each change has one for those that are new."""
        named: list[tuple[str, Sequence[BadRow]]] = []
        left = dict.fromkeys(rows)
        for name, theirs in zip(_names("quarantined", self.past), (*self.set_aside, ()), strict=False):
            if len(named) < len(self.past) and left.keys() >= set(theirs):
                left = {row: None for row in left if row not in set(theirs)}
                named.append((name, theirs))
            else:  # the newest file; or other rows than before, which the run directory refuses
                named.append((name, list(left)))
                break
        return named


def course_of(config: RunConfig) -> Course:
    """The course of the run directory of `config`, or a new one.

    Raises RunError if more rounds have begun than `config` asks for.
    """
    layout, course = Layout(config.output), Course(config.round_count, _count(config))
    settings = read_marker(layout.config) if is_run(config.output) else {}
    held = [Before(**{**each, "begun": tuple(each["begun"])}) for each in settings.get("continued", ())]
    if not held and not done(layout.data("pool")).exists():
        return course  # no row hangs on the number of rounds yet
    files = (layout.data(name) for name in _names("quarantined", held))
    set_aside = tuple(tuple(BadRow(row["file"], row["line"], row["reason"]) for row in _rows(path)) for path in files)
    course = replace(course, past=tuple(held), set_aside=set_aside)
    old, new = settings["rounds"], config.model_dump(mode="json")["rounds"]
    pools = [done(layout.data(name)) for name in _names("pool", held)] if old != new else []
    # A kill may come before the newest of them is written.
    pool = sum(read_counts(file)["in"] for file in pools if file == pools[0] or file.exists())
    if isinstance(old, list) and isinstance(new, list) and len(old) < len(new) and old == new[: len(old)]:
        before = Before(len(old), None, pool, ())
    elif isinstance(old, int) and isinstance(new, int) and old != new:
        begun = max((round_number(path.name) or 0 for path in layout.rounds()), default=0)
        if new < begun:
            raise RunError(
                f"{config.output} has begun round {begun}, and rounds is {new} now; set rounds to {begun} or more, or "
                "give a new output directory"
            )
        earlier = held[-1].begun if held else ()
        sizes = (*earlier, *shares(pool - sum(earlier), max(0, old - len(earlier))))
        drawn = isinstance(settings["prompts"], dict) and "task" in settings["prompts"]
        count = settings["prompts"]["count"] or PROMPTS_PER_ROUND * old if drawn else None
        before = Before(old, count, pool, sizes[:begun])
    else:
        return course  # the same rounds; or others that the run directory refuses
    return replace(course, past=(*held, before), changed=True)


def amendment(config: RunConfig, course: Course) -> dict[str, Any]:
    """The keys of config.json that a changed number of rounds changes."""
    settings = config.model_dump(mode="json")
    past = {"continued": [asdict(each) for each in course.past]} if course.past else {}
    return {"rounds": settings["rounds"], "prompts": settings["prompts"], **past}


def is_complete(config: RunConfig) -> bool:
    """Whether the run directory of `config` is finished, with as many rounds as `config` asks for."""
    return is_run(config.output) and is_finished(config.output) and not course_of(config).changed


def _count(config: RunConfig) -> int | None:
    prompts = config.prompts
    return (prompts.count or config.default_pool) if isinstance(prompts, TaskPrompts) else None


def _names(name: str, past: Sequence[Before]) -> list[str]:
    return [name, *(f"{name}-{number}" for number in range(2, len(past) + 2))]


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    return read_rows(path) if path.is_file() else iter(())


def _rounds(first: int, last: int) -> str:
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def shares(rows: int, rounds: int) -> list[int]:
    """Sizes of `rounds` parts of so many rows. They differ by at most one."""
    return [(t + 1) * rows // rounds - t * rows // rounds for t in range(rounds)]
