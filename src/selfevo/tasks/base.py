"""What a task is: problems, and a program that knows which answers are right. Gold answers live here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from selfevo.method.records import Prompt


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt together with its gold answer. Never given to the algorithm, only to evaluation and to an annotator.

    `kind` and `difficulty` are names by which results are split; a task that knows no difficulty leaves it empty.
    """

    prompt: Prompt
    answer: str
    kind: str
    difficulty: str = ""


class Checker(Protocol):
    """Knows what is right."""

    def is_correct(self, problem: Problem, response: str) -> bool: ...


class Task(Checker, Protocol):
    """Problems whose answers a program can check."""

    @property
    def name(self) -> str: ...

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        """`count` distinct problems whose prompt ids are not in `exclude`; the same for the same arguments.

        Raises DataError when there are not that many.
        """
        ...


class AnnotatedTask(Task, Protocol):
    """A task that can also teach: it holds the gold answers, so it can say what is wrong with a response."""

    def solution(self, problem: Problem, response: str = "") -> str:
        """The gold answer as a model should write it; where there are many, the one nearest to `response`."""
        ...

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback in words on a response: names each error, ends in a verdict."""
        ...
