"""Draws problems from a file, or generates them. The same arguments give the same problems."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from selfevo.data.tables import BadRow, Row, read_table
from selfevo.errors import DataError
from selfevo.method.records import Prompt
from selfevo.tasks.base import FiniteTask, Problem, Task

GENERATED = 300  # problems that a task generates for an evaluation, if no count is given
_MISSES = 1000  # after this many draws without a new problem, there are no more


def good_rows(path: Path) -> Iterator[Row]:
    """The rows of a problem file. A bad row raises DataError, because the file measures models."""
    for row in read_table(str(path)):
        if isinstance(row, BadRow):
            raise DataError(f"{row.file} line {row.line} {row.reason}; correct or remove it")
        yield row


def sampled(path: Path, known: Sequence[Problem], count: int, seed: int, exclude: Collection[str]) -> list[Problem]:
    """Samples `count` problems of a file. `exclude` removes problems but does not reorder the rest."""
    order = list(known)
    random.Random(seed).shuffle(order)
    left = unused(order, exclude)
    if len(left) < count:
        remedy = (
            f"ask for at most {len(left)}, or add problems"
            if left
            else "give another file, or set the count of what took them"
        )
        raise DataError(
            f"{count} problems are asked for, and {path} has {len(order)}, {len(left)} of them not in use yet; {remedy}"
        )
    return left[:count]


def unused(known: Sequence[Problem], exclude: Collection[str]) -> list[Problem]:
    """The problems whose prompt is not in `exclude`."""
    return [problem for problem in known if problem.prompt.id not in exclude]


def draw(
    task: Task,
    count: int | None,
    seed: int,
    exclude: frozenset[str],
    setting: str,
    default: int = GENERATED,
    most: int | None = None,
) -> list[Problem]:
    """`count` problems of a task. Without a count: all of a file, or at most `most`; `default` of any other task.

    `setting` is the name of the count; messages quote it. Raises DataError if there are not enough.
    """
    if count is None:
        count = default
        if isinstance(task, FiniteTask):
            left = task.available(exclude)
            count = max(1, left if most is None else min(left, most))
    try:
        return task.problems(count, seed, exclude)
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None


def made(
    name: str,
    kinds: Sequence[str],
    ask: Callable[[str, random.Random], str],
    answer: Callable[[str, str], str],
    count: int,
    seed: int,
    exclude: Collection[str],
    difficulty: Callable[[str], str] = lambda question: "",
) -> list[Problem]:
    """`count` distinct problems of alternating `kinds`. `ask` writes a question, `answer` solves it."""
    random_, seen, problems = random.Random(seed), set(exclude), list[Problem]()
    misses = 0
    while len(problems) < count:
        kind = kinds[len(problems) % len(kinds)]
        prompt = Prompt.of(ask(kind, random_))
        if prompt.id not in seen:
            seen.add(prompt.id)
            problems.append(Problem(prompt, answer(kind, prompt.prompt), kind, difficulty(prompt.prompt)))
            misses = 0
        elif (misses := misses + 1) == _MISSES:
            raise DataError(f"{name} has no {count} problems beyond the {len(exclude)} already used; ask for fewer")
    return problems
