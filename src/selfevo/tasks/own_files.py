"""Problems of your own file, which a rule checks: rows with a prompt and an answer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from selfevo.config.task import TaskColumns
from selfevo.data.conversations import Conversation, has_prompts, read_conversation, said, text_fault
from selfevo.errors import DataError
from selfevo.method.prompts import verdict_line
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.function import FunctionRule
from selfevo.tasks.golds import stored
from selfevo.tasks.rules import Gold, Rule
from selfevo.tasks.sampling import good_rows, sampled, unused

_OPTIONAL = ("choices", "solution", "kind", "difficulty")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Item:
    """A row of the file. `solution` is that of the file; "" if it has none. `left_off` is what of it is not asked."""

    problem: Problem
    gold: Gold
    solution: str
    place: str
    left_off: str


@dataclass(frozen=True)
class OwnFile:
    """The problems of one file. It is read when first needed; a row that cannot be used raises DataError, for a set
    that measures others has no room for doubt.

    With `answered` every row needs an answer; without it, either every row or none.
    """

    name: str
    path: Path
    rule: Rule
    columns: TaskColumns = field(default_factory=TaskColumns)
    answered: bool = True

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        items, again = self._file
        if again:
            logger.warning("%s asks %d questions more than once; each counts once", self.path, again)
        for what, rows in Counter(item.left_off for item in items.values() if item.left_off).items():
            logger.warning("%s: not asked: %s of %d of %d problems", self.path, what, rows, len(items))
        if isinstance(self.rule, FunctionRule):  # now, so that a mistake in it costs no training
            self.rule.try_out(next(iter(items.values())).gold)
        return sampled(self.path, self._problems, count, seed, exclude)

    def available(self, exclude: frozenset[str]) -> int:
        return len(unused(self._problems, exclude))

    def is_correct(self, problem: Problem, response: str) -> bool:
        return self.rule.is_right(self._item(problem).gold, response)

    def gold(self, problem: Problem) -> Gold:
        """What the row of a problem says is right, in the form of the rule."""
        return self._item(problem).gold

    def solution(self, problem: Problem, response: str = "") -> str:
        """A right response: the column of solutions, with the answer behind it if it does not say it; else the answer.

        Raises DataError if none of these is right by the task's own rule.
        """
        item = self._item(problem)
        gold = item.gold.solution
        tried = [item.solution, f"{item.solution}\nThe answer is {gold}."] if item.solution else []
        for text in [*tried, gold]:
            if text and self.rule.is_right(item.gold, text):
                return text
        raise DataError(
            f"{item.place}: neither the solution nor the answer is a right response by task {self.name}, so nothing "
            f"can be learnt from it; give a right response in a column {self.columns.solution or 'solution'!r}"
        )

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback on a response by the rule, which ends in the verdict."""
        item = self._item(problem)
        found = " ".join(self.rule.found(item.gold, response).split())[:200]
        correct = self.rule.is_right(item.gold, response)
        if correct:
            return f"The final answer {found} is right.\n{verdict_line(Verdict.QUALIFIED)}"
        finding = f"The final answer {found} is wrong." if found else "There is no final answer."
        return f"{finding} It should be {self.solution(problem)}\n{verdict_line(Verdict.NOT_QUALIFIED)}"

    def _item(self, problem: Problem) -> _Item:
        items = self._file[0]
        item = items.get(problem.prompt.id) or items.get(problem.question_id)  # the run may have a system prompt
        if item is None:
            raise DataError(f"problem {problem.prompt.prompt[:60]!r} is not in {self.path}; use the file it came from")
        return item

    @property
    def _problems(self) -> list[Problem]:
        return [item.problem for item in self._file[0].values()]

    @cached_property
    def _file(self) -> tuple[dict[str, _Item], int]:
        """The rows by the id of their prompt, and how many of the file ask again what an earlier one does. The same
        question twice is one problem, or an error if the answers differ."""
        items: dict[str, _Item] = {}
        seen = set[str]()
        unanswered = again = rows = 0
        for row in good_rows(self.path):
            seen |= row.values.keys()
            place = f"{row.file} line {row.line}"
            try:
                item = self._read(row.values, place)
            except ValueError as error:
                remedy = "" if "; " in str(error) else "; correct or remove it"
                raise DataError(f"{place}: {error}{remedy}") from None
            rows += 1
            unanswered += item.gold.text == ""
            if (first := items.setdefault(item.problem.prompt.id, item)) is not item:
                again += 1
                if first.problem.answer != item.problem.answer:
                    raise DataError(
                        f"{place} asks the same as {first.place} and has another answer; keep one row, with a list of "
                        "answers if both are right"
                    )
        self._check_columns(seen)
        if unanswered and (self.columns.answer in seen or self.columns.answer != TaskColumns().answer):
            raise DataError(
                f"{self.path}: {unanswered} of {rows} rows have no answer in column {self.columns.answer!r}; add it, "
                "or remove them"
            )
        if not items:
            raise DataError(f"{self.path} is empty; give a file with problems")
        return items, again

    def _check_columns(self, seen: set[str]) -> None:
        """Raises DataError for a column that is named in the configuration and that no row has."""
        for name in _OPTIONAL:
            column = getattr(self.columns, name)
            if column is not None and column not in seen:
                raise DataError(
                    f"{self.path} has no column {column!r}; it has {', '.join(map(repr, sorted(seen)))}; correct "
                    f"task.columns.{name}"
                )

    def _read(self, values: Mapping[str, Any], place: str) -> _Item:
        """A row. Raises ValueError if it cannot be used."""
        cells = {name: values.get(getattr(self.columns, name) or name) for name in _OPTIONAL}
        read = _conversation(values, self.columns.prompt)
        answer = said(values.get(self.columns.answer))
        if self.columns.answer not in values and read.answer:
            answer = read.answer  # the messages end in the assistant's turn
        if answer is None and self.answered:
            there = ", ".join(map(repr, values)) or "none"
            raise ValueError(
                f"there is no answer in column {self.columns.answer!r}; the row has {there}; name it with "
                "task.columns.answer"
            )
        gold = self.rule.read(read.prompt, answer, cells["choices"])
        if gold.text and (fault := text_fault(gold.text)):
            raise ValueError(f"the answer {fault}")
        kind, difficulty, solution = (stored(cells[name]) for name in ("kind", "difficulty", "solution"))
        left_off = "" if read.answer else read.left_off  # an answer at the end is the right one
        return _Item(Problem(gold.prompt, gold.text, kind or self.name, difficulty), gold, solution, place, left_off)


def _conversation(values: Mapping[str, Any], column: str) -> Conversation:
    """What a row asks. Raises ValueError if it asks nothing."""
    read = read_conversation(values, column)
    if isinstance(read, str):
        raise ValueError(read if has_prompts(values, column) else f"{read}; name it with task.columns.prompt")
    return read
