"""Problems whose answers are mathematics, not only numbers: MATH and its relatives, one JSON object a line.

A row has `problem` (or `question`, `prompt`) and `answer`, or a `solution` that ends in \\boxed{...}; results are split
by its `subject` (or `type`) and `level`, if there. `columns` names others. An answer that is a number
is compared as in word problems, exactly and at once. Everything else goes to math-verify, which reads LaTeX into sympy:
in a child process with half a second and a memory limit, since what a model writes can ask for any amount of either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfevo.config.task import TaskColumns
from selfevo.data.conversations import PROMPT, read_prompt
from selfevo.errors import DataError, MissingExtraError
from selfevo.method.answer_extraction import (
    DECLARATION,
    MAX_CHARACTERS,
    boxed,
    boxed_places,
    extract_answer,
    read_number,
)
from selfevo.method.prompts import verdict_line
from selfevo.method.records import Prompt
from selfevo.method.thinking import without_thinking
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.equivalence import same_answer
from selfevo.tasks.sampling import good_rows, sampled, unused
from selfevo.tasks.sandbox import Child, ChildError

_CHILD = Child(seconds=0.5, imports="math_verify")


@dataclass(frozen=True)
class LatexProblems:
    """The problems of one file; it is read when first needed, and a row that cannot be used raises DataError."""

    name: str
    path: Path
    columns: TaskColumns = field(default_factory=TaskColumns)

    def __post_init__(self) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtraError("task math compares answers with math-verify; run: pip install 'selfevo[math]'")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        return sampled(self.path, self._problems, count, seed, exclude)

    def available(self, exclude: frozenset[str]) -> int:
        return len(unused(self._problems, exclude))

    def is_correct(self, problem: Problem, response: str) -> bool:
        return any(same_answer(problem.answer, given, _algebra) for given in _readings(response, problem.answer))

    def solution(self, problem: Problem, response: str = "") -> str:
        return self._rows[problem.question_id][1]

    def explain(self, problem: Problem, response: str) -> str:
        given = final_answer(response)[:200]
        if self.is_correct(problem, response):
            return f"The final answer {given} is right.\n{verdict_line(Verdict.QUALIFIED)}"
        finding = f"The final answer {given} is wrong." if given else "There is no final answer."
        return f"{finding} It should be {problem.answer}.\n{verdict_line(Verdict.NOT_QUALIFIED)}"

    @property
    def _problems(self) -> list[Problem]:
        return [problem for problem, _ in self._rows.values()]

    @cached_property
    def _rows(self) -> dict[str, tuple[Problem, str]]:
        rows: dict[str, tuple[Problem, str]] = {}
        for row in good_rows(self.path):
            try:
                prompt, answer, solution = _read(row.values, self.columns)
            except ValueError as error:
                raise DataError(f"{row.file} line {row.line} {error}") from None
            if not answer:
                missing = "answer, nor a solution that ends in \\boxed{...}"
                raise DataError(f"{row.file} line {row.line} has no {missing}; repair or remove it")
            kind = _first(row.values, self.columns.kind or "subject", "type") or self.name
            level = _first(row.values, self.columns.difficulty or "level")
            rows.setdefault(prompt.id, (Problem(prompt, answer, kind, level), solution))
        return rows


def final_answer(text: str) -> str:
    """What the last \\boxed{...} holds, or several that stand in one list; else what is declared as the answer ("####",
    "answer is", "answer:", a heading); else the mathematics of the last sentence, its bold words, or itself."""
    text = without_thinking(text)[-MAX_CHARACTERS:].strip()
    if boxes := boxed(text):
        together = _last_boxes(text, len(boxes))
        return ", ".join(boxes[-together:]) if together and all(boxes[-together:]) else boxes[-1]
    ends = [declaration.end() for declaration in DECLARATION.finditer(text)]
    piece = text[ends[-1] :].lstrip(" \n\t:*_") if ends else text
    if ends:
        line = _LATER.split(piece.partition("\n")[0], maxsplit=1)[0].strip()
        found = _DISPLAYED.match(piece) or _WHOLE.match(line)
    else:
        line = _SENTENCE.split(piece.rpartition("\n")[2].strip())[-1]
        displayed = [each for each in _DISPLAYED.finditer(piece) if not piece[each.end() :].strip(" .\n")]
        found = displayed[-1] if displayed else _LAST.search(line)
    return _bare(next(filter(None, found.groups()), "") if found else line)


# --- where the answer stands --------------------------------------------------------------------------------------

_DISPLAYED = re.compile(r"\\\[((?:(?!\\\]).)*)\\\]|\$\$((?:(?!\$\$).)*)\$\$", re.DOTALL)
_MATHEMATICS = r"\$((?:\\\$|[^$])+)\$|\\\(((?:(?!\\\)).)+)\\\)|\*\*([^*]+)\*\*|`([^`]+)`|__([^_]+)__"
_WHOLE = re.compile(rf"\s*(?:{_MATHEMATICS})(?!\s*(?:and|or|,)\s*\$)")
_LAST = re.compile(rf"(?:{_MATHEMATICS})[^$*`\\]*$")
_SENTENCE = re.compile(r"(?<=[^0-9\s])\.\s+|(?<=[0-9])\.\s+(?=[A-Z])")
_LATER = re.compile(r"\.(?:\s|$)|[,;]?\s+(?:since|because|as|where|for which|so)\b")
_BETWEEN = re.compile(
    r"[\s$.]*(?:,|and|or|,\s*and|,\s*or|\\text\{\s*(?:and|or)\s*\})[\s$]*|[\s$]*\\(?:quad|text\{ \})[\s$]*"
)


def _bare(text: str) -> str:
    return re.sub(r"^[\s*_`:]+|[\s*_`]+$", "", text.strip().strip("*`").removesuffix(".")).strip()


def _last_boxes(text: str, count: int) -> int:
    r"""How many boxes at the end are one list: "\boxed{6} and \boxed{7}"."""
    together, places = 1, boxed_places(text)
    for (_, end), (start, _) in zip(reversed(places[:-1]), reversed(places[1:]), strict=True):
        if not _BETWEEN.fullmatch(text, end, start):
            break
        together += 1
    return min(together, count)


def _readings(response: str, gold: str) -> Iterator[str]:
    """The final answer, and where the gold answer is a number, the one that the rule for numbers reads."""
    yield final_answer(response)
    if read_number(gold) is not None and not boxed(without_thinking(response)[-MAX_CHARACTERS:]):
        number = extract_answer(response)
        if number is not None:
            yield str(number)


def _algebra(gold: str, given: str) -> bool:
    try:
        return bool(_CHILD.call(_verify, gold, given))
    except ChildError:  # too long, too large, or nothing it could read: it is not right
        return False


def _first(values: Mapping[str, Any], *names: str) -> str:
    """The text of the first of these columns that holds something; "" if none does."""
    for name in names:
        if isinstance(values.get(name), list | dict):
            raise ValueError(f"column {name!r} holds {type(values[name]).__name__}; task math takes a text or a number")
    return next((str(values[name]).strip() for name in names if values.get(name) not in (None, "")), "")


def _read(values: Mapping[str, Any], columns: TaskColumns) -> tuple[Prompt, str, str]:
    question = _first(values, "problem", "question") if columns.prompt == PROMPT else ""
    prompt = Prompt.of(question) if question else read_prompt(values, columns.prompt)
    if isinstance(prompt, str):
        raise ValueError(f"has no problem: {prompt}; repair or remove it, or name its column with columns.prompt")
    worked = _first(values, columns.solution or "solution")
    answer = _first(values, columns.answer)
    if not answer and "\\boxed{" in worked:
        answer = final_answer(worked)
    if "\\boxed{" not in worked:
        worked = f"{worked}\nThe answer is \\boxed{{{answer}}}.".strip()
    return prompt, answer, worked


def _verify(gold: str, given: str) -> bool:
    """Runs in the child: math-verify, and where it says yes to two expressions, whether they are equal exactly. Without
    its own alarm: the child is killed instead."""
    import logging

    import sympy
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its alarm is off

    def read(text: str) -> Any:
        found = parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)
        return found[0] if found else None

    sides = [text.split("=") for text in (gold, given)]
    if all(len(each) == 2 for each in sides):  # two equations: the same but for a factor
        left, right = (read(f"{a}-({b})") for a, b in sides)
        ratio = sympy.simplify(left / right) if left is not None and right is not None and right != 0 else None
        return isinstance(ratio, sympy.Expr) and bool(ratio.is_number and ratio.is_finite and ratio.is_nonzero)
    left, right = read(gold), read(given)
    if left is None or right is None:
        return False
    if not verify(left, right, timeout_seconds=None, allow_set_relation_comp=True):
        return False
    return not all(isinstance(side, sympy.Expr) for side in (left, right)) or _is_zero(left, right)


def _is_zero(left: Any, right: Any) -> bool:
    """Whether left - right is 0: at a point chosen for no other reason, exactly or to 120 digits; decimals to 9."""
    import sympy

    left, right = left.doit(), right.doit()
    primes = iter((7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47))
    point = {
        symbol: sympy.Rational(next(primes, 53), 3)
        for symbol in sorted(left.free_symbols | right.free_symbols, key=str)
    }
    left, right = left.subs(point), right.subs(point)
    difference = left - right
    if difference.has(sympy.Float):
        return bool(abs(sympy.N(difference)) <= 1e-9 * abs(sympy.N(left)))
    if difference.is_Rational:
        return bool(difference == 0)
    return bool(abs(difference.evalf(15, maxn=400)) < sympy.Float(10) ** -120)
