"""Solutions of arithmetic word problems as steps, and the feedback of an annotator who works a problem out first.

Such a feedback is the working, then its result beside the response's, then the verdict: what a model that has learnt it
writes down before the verdict is what decides it. See experiments/notebook.md for what other feedback brought.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from selfevo.method.answer_extraction import ANNOTATION, CURRENCY, DIGITS, extract_answer, read_number, write_number
from selfevo.method.prompts import verdict_line
from selfevo.method.verdicts import Verdict

_CALL = re.compile(r"<<([^<>=\n]+)=([^<>\n]+)>>")
_RESULT = re.compile(rf"=\s*[{CURRENCY}]?\s*(?P<number>-?{DIGITS})")
_NUMBERS = re.compile(DIGITS)
_SIDE = re.compile(rf"[-+*/\u00d7÷(){CURRENCY}%\d.,\s]+$")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a gold solution: its `words` without marks, and the calculations of it, "48/2" and "24"."""

    words: str
    calculations: tuple[tuple[str, str], ...]


def gold_steps(answer: str) -> list[Step]:
    """The steps of a solution as GSM8K writes it, "She sold 48/2 = <<48/2=24>>24 clips.\\n#### 24"."""
    lines = [line for line in answer.split("\n") if line.strip() and not line.startswith("####")]
    return [Step(ANNOTATION.sub("", line).strip(), tuple(_CALL.findall(line))) for line in lines]


def working_of(solution: str) -> str:
    """A solution without its last line "#### answer"."""
    return solution.partition("####")[0].strip()


def worked_feedback(question: str, working: str, response: str, expected: str, locate: bool = True) -> str:
    """Feedback on `response`: the working, whose result is `expected`; both results side by side; the verdict.

    With `locate` a wrong response is also told the first of its calculations whose result the working has not.
    """
    expected_value, given = read_number(expected), extract_answer(response)
    same = given is not None and given == expected_value
    if given is None:
        compared = f"Compare: the result is {expected}, the response has none."
    else:
        compared = f"Compare: the result is {expected}, the response says {write_number(given)}: "
        compared += "the same." if same else "different."
    lines = [f"Work it out: {working_of(working)}", compared]
    if not same and locate and (step := first_difference(question, working, response)):
        lines.append(f"The first step that differs: {step}.")
    return "\n".join([*lines, verdict_line(Verdict.QUALIFIED if same else Verdict.NOT_QUALIFIED)])


def first_difference(question: str, working: str, response: str) -> str:
    """The first calculation of `response`, "48 + 22 = 70", whose result neither `working` nor `question` holds."""
    known = {_value(number) for text in (question, ANNOTATION.sub("", working)) for number in _NUMBERS.findall(text)}
    return next((shown for shown, value in calculations(response) if value not in known), "")


def calculations(text: str) -> Iterator[tuple[str, Fraction]]:
    """The calculations of a text, "48 + 22 = 70" and 70, as far as they can be read."""
    for line in ANNOTATION.sub("", text).split("\n"):
        for match in _RESULT.finditer(line):
            side = _SIDE.search(line[: match.start()])
            asked = side.group().strip(" .,") if side else ""
            if re.search(r"\d\s*[-+*/\u00d7÷]\s*[^\s\d]?\d|\d%|\)", asked):
                yield f"{asked} = {match['number']}", _value(match["number"])


_PLAIN = (
    (re.compile(r"\\(?:text|mathrm)\{[^{}]*\}"), ""),
    (re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}"), r"\1 / \2"),
    (re.compile(r"\\boxed\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\[$%]"), lambda match: match.group()[1]),
    (re.compile(r"\\[\[\]()]"), ""),
    (re.compile(r" +"), " "),
)


def short_form(working: str, expected: str) -> str:
    """The calculations of a working at length, LaTeX or not, a line each, and the answer: what can be written from the
    feedback alone. Empty where they do not lead to `expected`."""
    for pattern, replacement in _PLAIN:
        working = pattern.sub(replacement, working)
    found = dict(calculations(working))
    if not found or list(found.values())[-1] != read_number(expected):
        return ""
    return "\n".join([*found, f"#### {expected}"])


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))
