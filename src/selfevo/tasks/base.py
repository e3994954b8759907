"""The protocols of a task: problems, and a program that checks answers. Tasks hold gold answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from selfevo.method.records import Prompt, under


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with its gold answer. Only evaluation and annotators get it, never the algorithm.

    Results are grouped by `kind` and `difficulty`. `difficulty` is "" if the task has none.
    """

    prompt: Prompt
    answer: str
    kind: str
    difficulty: str = ""

    @property
    def question_id(self) -> str:
        """The id of the prompt without its system prompt, which a run may have added."""
        asked = self.prompt
        return Prompt.of(asked.prompt, history=asked.history).id if asked.system else asked.id

    def under(self, system: str) -> Problem:
        """The problem with a system prompt, if it has none."""
        return replace(self, prompt=under(self.prompt, system))


@runtime_checkable
class Checker(Protocol):
    """Checks answers."""

    def is_correct(self, problem: Problem, response: str) -> bool: ...


class Task(Checker, Protocol):
    """Problems whose answers a program can check."""

    @property
    def name(self) -> str: ...

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        """`count` distinct problems whose prompt ids are not in `exclude`.

        The same arguments give the same problems. Raises DataError if there are not enough.
        """
        ...


@runtime_checkable
class FiniteTask(Task, Protocol):
    """A task that knows how many problems it has, as one that reads a file."""

    def available(self, exclude: frozenset[str]) -> int:
        """The number of problems whose prompt ids are not in `exclude`."""
        ...


class AnnotatedTask(Task, Protocol):
    """A task that can also annotate: from the gold answers it writes solutions and feedback."""

    def solution(self, problem: Problem, response: str = "") -> str:
        """The gold answer as a model should write it; of several the closest to `response`."""
        ...

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback on a response in words. It names each error and ends in a verdict."""
        ...
