"""Problems whose answers are mathematics, not only numbers: MATH and its relatives, one JSON object a line.

A row has `problem` (or `question`) and `answer`, or a `solution` that ends in \\boxed{...}; results are split by its
`subject` (or `type`) and `level`, if there. An answer that is a number
is compared as in word problems, exactly and at once. Everything else goes to math-verify, which reads LaTeX into sympy:
in a child process with half a second and a memory limit, since what a model writes can ask for any amount of either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfevo.errors import DataError, MissingExtraError
from selfevo.method.answer_extraction import DECLARATION, MAX_CHARACTERS, read_number
from selfevo.method.prompts import Verdict, verdict_line
from selfevo.method.records import Prompt
from selfevo.tasks.base import Problem
from selfevo.tasks.sampling import good_rows, sampled
from selfevo.tasks.sandbox import Child, ChildError

_CHILD = Child(seconds=0.5, imports="math_verify")
# A power of a power, or one with a large exponent: no answer of a problem, and hours of work. It costs no child.
_BOMB = re.compile(r"(?:\*\*|\^)\s*\{?\s*(?:\d{4,}|[\w.]+\s*\}?\s*(?:\*\*|\^))")


@dataclass(frozen=True)
class LatexProblems:
    """The problems of one file; it is read when first needed, and a row that cannot be used raises DataError."""

    name: str
    path: Path

    def __post_init__(self) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtraError("task math compares answers with math-verify; run: pip install 'selfevo[math]'")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        return sampled(self.path, [problem for problem, _ in self._rows.values()], count, seed, exclude)

    def is_correct(self, problem: Problem, response: str) -> bool:
        given = final_answer(response)
        if not given or _BOMB.search(given):
            return False
        if given == problem.answer:
            return True
        gold, number = read_number(problem.answer), read_number(given.strip("$"))
        if gold is not None and number is not None:
            return gold == number
        try:
            return bool(_CHILD.call(_verify, problem.answer, given))
        except ChildError:  # too long, too large, or nothing it could read: it is not right
            return False

    def solution(self, problem: Problem, response: str = "") -> str:
        return self._rows[problem.prompt.id][1]

    def explain(self, problem: Problem, response: str) -> str:
        given = final_answer(response)[:200]
        if self.is_correct(problem, response):
            return f"The final answer {given} is right.\n{verdict_line(Verdict.QUALIFIED)}"
        finding = f"The final answer {given} is wrong." if given else "There is no final answer."
        return f"{finding} It should be {problem.answer}.\n{verdict_line(Verdict.NOT_QUALIFIED)}"

    @cached_property
    def _rows(self) -> dict[str, tuple[Problem, str]]:
        rows: dict[str, tuple[Problem, str]] = {}
        for row in good_rows(self.path):
            question, answer, solution = _read(row.values)
            if not question or not answer:
                missing = "problem" if not question else "answer, nor a solution that ends in \\boxed{...}"
                raise DataError(f"{row.file} line {row.line} has no {missing}; repair or remove it")
            prompt = Prompt.of(question)
            kind = str(row.values.get("subject") or row.values.get("type") or self.name)
            level = str(row.values.get("level") or "")
            rows.setdefault(prompt.id, (Problem(prompt, answer, kind, level), solution))
        return rows


def final_answer(text: str) -> str:
    """What the last \\boxed{...} holds; else what follows the last "####" or "answer is" in its line; else the last
    line."""
    text = text[-MAX_CHARACTERS:].strip()
    if (start := text.rfind("\\boxed{")) >= 0:
        inner, depth = start + len("\\boxed{"), 1
        for end in range(inner, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[inner:end].strip()
        return ""
    ends = [declaration.end() for declaration in DECLARATION.finditer(text)]
    line = text[ends[-1] :].lstrip().partition("\n")[0] if ends else text.rpartition("\n")[2]
    return line.strip().removesuffix(".").strip()


def _read(values: Mapping[str, Any]) -> tuple[str, str, str]:
    question = str(values.get("problem") or values.get("question") or "").strip()
    worked = str(values.get("solution") or "").strip()
    answer = str(values.get("answer") or "").strip()
    if not answer and "\\boxed{" in worked:
        answer = final_answer(worked)
    if "\\boxed{" not in worked:
        worked = f"{worked}\nThe answer is \\boxed{{{answer}}}.".strip()
    return question, answer, worked


def _verify(gold: str, given: str) -> bool:
    """Runs in the child. Without math-verify's own alarm: the child is killed instead."""
    from math_verify import parse, verify

    read = [parse(f"${text.strip('$')}$", parsing_timeout=None) for text in (gold, given)]
    return bool(verify(*read, timeout_seconds=None))
