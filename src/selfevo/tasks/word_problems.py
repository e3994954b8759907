"""Arithmetic word problems from a file, such as GSM8K and SVAMP, with checked answers and an annotator's feedback.

How the answer of a text is read: answer_extraction.py. Nothing a model writes is ever evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from selfevo.errors import DataError
from selfevo.method.answer_extraction import (
    ANNOTATION,
    CURRENCY,
    DIGITS,
    MAX_CHARACTERS,
    MAX_NUMBER,
    decimal,
    extract_answer,
    read_number,
    write_number,
)
from selfevo.method.normal_form import plain_characters
from selfevo.method.prompts import verdict_line
from selfevo.method.records import Prompt
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.sampling import good_rows, sampled, unused

MAX_TOKENS = 40  # of one side of an equation
_NOISE = Fraction(1, 10**9)  # of a value: 48 * 0.3333333333333333 = 16

_TOKEN = re.compile(
    rf"(?P<number>(?:[{CURRENCY}]\s?)?{DIGITS}(?:\s?%)?)|(?P<operator>[-\u2212\u2013+*/\u00d7÷·()=]|(?<![A-Za-z])x(?![A-Za-z]))"
    r"|(?P<space>[^\S\n]+)|(?P<other>\*\*|[A-Za-z]+|.|\n)"
)
_OPERATORS = {"\u2212": "-", "\u2013": "-", "\u00d7": "*", "x": "*", "·": "*", "÷": "/"}
# Where an equation that follows or precedes these stands in a larger expression, it cannot be judged by itself.
_FUNCTIONS = (
    "sqrt|root|sin|cos|tan|log|ln|lg|exp|abs|max|min|gcd|lcm|floor|ceil|mod|choose|square|squared|cube|cubed|power|"
    "factorial|half|third|quarter|twice|double|triple|thrice|negative|percent"
)
_OPEN_LEFT = re.compile(
    rf"(?:\b(?:of|off|on|times|plus|minus|by|from|than|over|per|into|less|more|{_FUNCTIONS})\s*|\badd\w*\s[^.\n]*\bto\s*|[0-9]\s*and\s*|[0-9],\s"
    r"|\w[:.,^*]+|[%°\w]|\\[A-Za-z]+\s*"
    r"|(?:step|day|week|month|year|part|question|problem|case|option|round|level|item|no\.?|number|page|class|grade|room|chapter|lesson|section|floor|table|unit)\s"
    r"|[0-9)\]]\s*[A-Za-z]\s*"  # 5 C 2
    r"|[0-9)\]]\s*[^\w\s.,;:?\"'“”‘’()\[\]\u2012-\u2015-]+\s*|[\^√∛∜∑Σ∏±≈~&|\\{_]\s*|[\u00b2\u00b3\u00b9\u2070-\u2079\u00bc-\u00be\u2150-\u215e]\s*)$",
    re.IGNORECASE,
)
_OPEN_RIGHT = re.compile(
    r"[A-Za-z]\b|\s*(?:cents?\b|hundred|thousand|million|billion|dozen|k\b|r\.?\s*[0-9]|r\b|rem\b|remainder|with|and\s+(?:an?\b|[0-9]+/)"
    r"|[:^!]|,?[0-9]|mod\b|choose\b|squared|cubed|per\s?cent|o'clock|\.\(|[ap]\.?m\b|\\[A-Za-z]|[_|~²³⁰¹⁴-⁹¼-¾⅐-⅞±√∛π°×÷≈<>'\"′″‰⁄]|\*\*\s*[0-9(])"
    r"|\s+(?!(?:and|so|then|or|but)\b)[A-Za-z]+\s+(?:and\s+|with\s+)?(?:an?\s+half|[0-9])",  # 3 hours and 20 minutes
    re.IGNORECASE,
)
_ROUNDED = re.compile(r"[^.\n=]{0,40}\b(?:round|about|approx|nearest|left|remain|whole|full)", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)])\*{2,3}(?=[^\s*])|(?<=[^\s*])\*{2,3}(?![\w(*])")
_LATEX = {r"\%": "%", r"\$": "$", r"\times": "\u00d7", r"\cdot": "·", r"\div": "÷", r"{,}": ",", r"\!": "", r"\,": " "}
_IN_LATEX = re.compile("|".join(re.escape(mark) + (r"(?![A-Za-z])" if mark[-1].isalpha() else "") for mark in _LATEX))


def explain_answer(response: str, expected: str, correct: bool) -> str:
    """Feedback in words as an annotator with the gold answer gives it: calculations, final answer, verdict."""
    checked, wrong = check_equations(response)
    answer = extract_answer(response)
    lines = []
    if wrong:
        lines.append(wrong)
    elif checked:
        lines.append("The calculations are right." if correct else "The calculations are right, the approach is not.")
    if correct:
        lines.append(f"The final answer {expected} is right.")
    elif answer is None:
        lines.append(f"There is no final answer. It should be {expected}.")
    else:
        lines.append(f"The final answer {write_number(answer)} is wrong. It should be {expected}.")
    return "\n".join([*lines, verdict_line(Verdict.QUALIFIED if correct else Verdict.NOT_QUALIFIED)])


def check_equations(text: str) -> tuple[int, str]:
    """How many equations such as "3 + 4 = 7" could be checked, and a sentence on the first wrong one ("" if none).

    Only equations that can be read whole are judged: one within a larger expression, with a variable or with units in
    it is passed over, since wrong feedback teaches worse than none.
    """
    text = ANNOTATION.sub("", plain_characters(text[-MAX_CHARACTERS:]))
    text = _BOLD.sub("", _IN_LATEX.sub(lambda match: _LATEX[match.group()], text))
    checked = 0
    for run in _runs(text):
        sides = _sides(run)
        for i, (left, right) in enumerate(pairwise(sides)):
            value, claims = _evaluate(left), _claims(right)
            opens_left = i == 0 and _OPEN_LEFT.search(_line_before(text, left[0].start()))
            opens_right = i == len(sides) - 2 and _OPEN_RIGHT.match(text, right[-1].end())
            if not _calculates(left) or value is None or not claims or opens_left or opens_right:
                continue
            checked += 1
            values = [_evaluate(left, reading) for reading in _Reading]
            if not any(_agrees(value, claim) for value in values if value is not None for claim in claims):
                if value.denominator > 1 and _ROUNDED.match(text, right[-1].end()):  # 7 / 2 = 4 buses, rounded up
                    checked -= 1
                    continue
                written, claimed = (text[side[0].start() : side[-1].end()] for side in (left, right))
                exact = write_number(value)
                shown = exact if len(exact.partition(".")[2]) <= 4 and "/" not in exact else decimal(value, 2)
                return checked, f"{written} = {claimed} is wrong: {written} = {shown}."
    return checked, ""


def _line_before(text: str, end: int) -> str:
    """The last characters of a line before a place, without the marks that it begins with."""
    line = text[max(0, end - 20) : end].rpartition("\n")[2]
    return line if re.search(r"\w", line) else re.sub(r"[*_>#=`$|-]", "", line)


@dataclass(frozen=True)
class WordProblems:
    """The problems of one file. Rows are GSM8K's (answer ends in "#### 42"), SVAMP's, or question and answer.

    The file is read when first needed; a row that cannot be used raises DataError, for a set that measures others has
    no room for doubt.
    """

    name: str
    path: Path

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        return sampled(self.path, self._problems, count, seed, exclude)

    def available(self, exclude: frozenset[str]) -> int:
        return len(unused(self._problems, exclude))

    def is_correct(self, problem: Problem, response: str) -> bool:
        answer = extract_answer(response)
        return answer is not None and answer == read_number(problem.answer)

    def solution(self, problem: Problem, response: str = "") -> str:
        """The worked gold solution, ending in a line "#### answer"; for supervised labels."""
        if problem.question_id not in self._rows:
            raise DataError(f"problem {problem.prompt.prompt[:60]!r} is not in {self.path}; use the file it came from")
        return self._rows[problem.question_id][1]

    def explain(self, problem: Problem, response: str) -> str:
        """What an annotator who holds the gold answer says of `response`, ending in the verdict."""
        return explain_answer(response, problem.answer, self.is_correct(problem, response))

    @property
    def _problems(self) -> list[Problem]:
        return [problem for problem, _ in self._rows.values()]

    @cached_property
    def _rows(self) -> dict[str, tuple[Problem, str]]:
        rows: dict[str, tuple[Problem, str]] = {}
        for row in good_rows(self.path):
            try:
                question, answer, work, steps = read_problem(row.values)
            except ValueError as error:
                raise DataError(f"{row.file} line {row.line}: {error}; repair or remove it") from None
            prompt = Prompt.of(question)
            solution = f"{work}\n#### {answer}".strip()
            rows.setdefault(prompt.id, (Problem(prompt, answer, self.name, steps), solution))
        return rows


def read_problem(values: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Question, answer, worked solution and number of its steps (may be empty) of a row; ValueError says what is wrong
    with it. The steps are GSM8K's calculator annotations."""
    if {"Body", "Question", "Answer"} <= values.keys():
        question = f"{str(values['Body']).strip()} {str(values['Question']).strip()}"
        gold, equation = str(values["Answer"]), str(values.get("Equation", ""))
    elif {"question", "answer"} <= values.keys():
        question, gold, equation = str(values["question"]), str(values["answer"]), ""
    else:
        shown = ", ".join(map(repr, values)) or "none"
        raise ValueError(f"the columns are {shown}, not question and answer, nor Body, Question and Answer")
    value = extract_answer(gold)
    if not question.strip() or value is None:
        raise ValueError(
            f"the {'question is empty' if not question.strip() else f'answer {gold[:60]!r} has no number'}"
        )
    answer = write_number(value)
    if equation:
        return question, answer, _work(equation, value, answer), ""
    steps = len(ANNOTATION.findall(gold))
    work = ANNOTATION.sub("", gold).rpartition("####")[0] if "####" in gold else gold
    shown = f"{steps} step{'s' * (steps > 1)}" if steps else ""
    return question, answer, "" if read_number(work) is not None else work.strip(), shown


def _work(equation: str, value: Fraction, answer: str) -> str:
    """SVAMP's "( 76.0 - 25.0 )" as "76 - 25 = 51"; empty where the equation does not give the answer."""
    written = re.sub(r"\.0\b", "", equation.strip().removeprefix("(").removesuffix(")"))
    written = written.strip().replace("( ", "(").replace(" )", ")")
    tokens = [token for token in _TOKEN.finditer(written) if token.lastgroup != "space"]
    return f"{written} = {answer}" if _evaluate(tokens) == value else ""


Tokens = list[re.Match[str]]


def _runs(text: str) -> list[Tokens]:
    """The stretches of numbers, operators and "=" between words, where "=" occurs."""
    runs: list[Tokens] = [[]]
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "other":
            runs.append([])
        elif token.lastgroup != "space":
            runs[-1].append(token)
    return [run for run in runs if any(token.group() == "=" for token in run)]


def _sides(run: Tokens) -> list[Tokens]:
    """The run cut at "="; sides that are empty make their neighbours unreadable, so the run is given up."""
    sides: list[Tokens] = [[]]
    for token in run:
        if token.group() == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    if not sides[0]:
        del sides[0]  # "= 3 + 4 = 7" goes on from the line before
    if len(sides[0]) > 1 and sides[0][0].group() == "(" and _evaluate(sides[0]) is None:
        sides[0] = sides[0][1:]  # "(3 + 4 = 7)"
    while sides[-1] and sides[-1][-1].group() == ")" and _evaluate(sides[-1]) is None:
        sides[-1] = sides[-1][:-1]
    return sides if all(sides) else []


def _calculates(side: Tokens) -> bool:
    return any(token.lastgroup == "operator" and token.group() not in "()" for token in side)


def _claims(side: Tokens) -> list[tuple[Fraction, int]]:
    """What a right-hand side can be taken to say, as value and decimals: its first number, or its own value.

    "= 25%" can mean 25 or 0.25; "5 + 3 = 8 * 2 = 16" is poor style and not wrong arithmetic.
    """
    first = side[0].group()
    if first in "-\u2212" and len(side) == 2 and side[1].lastgroup == "number":
        return [(-claimed, decimals) for claimed, decimals in _claims(side[1:])]
    if side[0].lastgroup != "number":
        value = _evaluate(side)
        return [] if value is None else [(value, 0)]
    decimals = len(first.rstrip("% ").partition(".")[2])
    value = _evaluate(side)
    if value is None:
        return []  # "= 24/y", "= 1 1/2", "= 18 000"
    percent = (_amount(first), decimals + 2 if "%" in first else decimals)
    dotted = _evaluate(side, _Reading.DOTS)
    claims = [(_amount(first.rstrip("% ")), decimals), percent, (value, 0)]
    return claims if dotted in (None, value) else [*claims, (dotted, 0)]


def _agrees(value: Fraction, claim: tuple[Fraction, int]) -> bool:
    """Equal but for floating-point noise; or, with decimals, up to rounding or cutting at the last of them."""
    claimed, decimals = claim
    error = abs(value - claimed)
    return error <= abs(value) * _NOISE or (decimals > 0 and error < Fraction(1, 10**decimals))


def _amount(number: str) -> Fraction:
    value = Fraction(number.strip(CURRENCY + "% ").replace(",", ""))
    return value / 100 if number.endswith("%") else value


class _Reading(Enum):
    """What people mean by a percent sign, and by a dot: 20% * 50 = 10, 100% - 80% = 20, 50 - 20% = 40, and
    1.000 + 500 = 1.500."""

    SHARE = "20% is 0.2"
    PLAIN = "20% is 20"
    RELATIVE = "50 - 20% is 40"
    DOTS = "1.000 is 1000"


def _evaluate(tokens: Tokens, reading: _Reading = _Reading.SHARE) -> Fraction | None:
    """The value of an arithmetic expression; None unless it is whole and of bounded size."""
    if not tokens or len(tokens) > MAX_TOKENS or any(len(token.group()) > MAX_NUMBER for token in tokens):
        return None
    if any(re.match(r"0[0-9]", token.group()) for token in tokens):  # 0930 is a time
        return None
    try:
        words = [_OPERATORS.get(token.group(), token.group()) for token in tokens]
        if reading is _Reading.PLAIN:
            words = [word.rstrip("% ") for word in words]
        if reading is _Reading.DOTS:
            words = [re.sub(r"(?<=[0-9])\.(?=[0-9]{3}(?![0-9]))", "", word) for word in words]
        value, rest = _sum(words, reading is _Reading.RELATIVE)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return None if rest or abs(value) >= 10**MAX_NUMBER else value


def _sum(words: list[str], relative: bool = False) -> tuple[Fraction, list[str]]:
    value, words = _product(words, relative)
    while words and words[0] in "+-":
        sign, share = 1 if words[0] == "+" else -1, words[1].endswith("%")
        right, words = _product(words[1:], relative)
        value += sign * right * (value if relative and share else 1)
    return value, words


def _product(words: list[str], relative: bool) -> tuple[Fraction, list[str]]:
    value, words = _factor(words, relative)
    divided = False
    while words and words[0] in "*/":
        operator = words[0]
        if operator == "/" and divided:
            raise ValueError("a / b / c, by which people mean both (a / b) / c and a / (b / c)")
        divided |= operator == "/"
        right, words = _factor(words[1:], relative)
        value = value * right if operator == "*" else value / right
    return value, words


def _factor(words: list[str], relative: bool) -> tuple[Fraction, list[str]]:
    if words[0] != "(":
        return _amount(words[0]), words[1:]
    value, words = _sum(words[1:], relative)
    if words[0] != ")":
        raise ValueError("an open bracket")
    return value, words[1:]
