"""Problems answered by a short list of numbers: sums and running totals.

An answer gives only the results. The model must do each addition in one step, and a few dozen
labels do not show all additions. The annotator's feedback instead works out each addition by its
last digits. These small sums occur many times in the same labels. Then it compares each result with
the answer's. So the model learns to work out results long before it learns to answer.
Self-evolution needs this gap; experiments/notebook.md has problems without it.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from selfevo.errors import ConfigError
from selfevo.method.prompts import verdict_line
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.sampling import made


@dataclass(frozen=True, slots=True)
class Step:
    """One addition. Example: `asked` 27+5, `worked` by last digits 7+5=12 20+12=32, `result` 32."""

    asked: str
    worked: str
    result: str

    def __str__(self) -> str:
        return f"{self.asked}: {self.worked}"


def _plus(number: int, extra: int) -> Step:
    tens, last = number // 10 * 10, number % 10
    worked = f"{last}+{extra}={last + extra} {tens}+{last + extra}={number + extra}"
    return Step(f"{number}+{extra}", worked, str(number + extra))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: `ask` draws a question, `steps` works it out."""

    ask: Callable[[random.Random], str]
    steps: Callable[[str], list[Step]]


def _ask_totals(random_: random.Random) -> str:
    numbers = (random_.randint(2, 9) for _ in range(3))
    return f"Running totals: {random_.randint(11, 59)} {' '.join(map(str, numbers))}"


def _totals(question: str) -> list[Step]:
    total, *rest = map(int, question.partition(": ")[2].split())
    steps = []
    for number in rest:
        steps.append(_plus(total, number))
        total += number
    return steps


def _ask_add(random_: random.Random) -> str:
    numbers = (random_.randint(11, 89) for _ in range(3))
    return f"Add {random_.randint(2, 9)} to each: {' '.join(map(str, numbers))}"


def _add(question: str) -> list[Step]:
    head, _, items = question.partition(" to each: ")
    return [_plus(int(number), int(head.split()[1])) for number in items.split()]


KINDS = {
    "add-to-each": Kind(_ask_add, _add),
    "running-totals": Kind(_ask_totals, _totals),
}


@dataclass(frozen=True, slots=True)
class StepsTask:
    """Problems of one kind, or of several kinds, which alternate."""

    name: str
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"unknown task {kind!r}; use one of {', '.join(KINDS)}")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        def answer(kind: str, question: str) -> str:
            return " ".join(step.result for step in KINDS[kind].steps(question))

        return made(self.name, self.kinds, lambda kind, random_: KINDS[kind].ask(random_), answer, count, seed, exclude)

    def is_correct(self, problem: Problem, response: str) -> bool:
        return chain(response) == problem.answer.split()

    def solution(self, problem: Problem, response: str = "") -> str:
        return problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback in words: the steps, each result compared with the answer's, and the verdict.

        Each comparison repeats the count of errors, so that the count stands right before the
        verdict. Without it, models overlooked a "different" further back and wrote "qualified"
        (experiments/notebook.md).
        """
        steps, given = KINDS[problem.kind].steps(problem.prompt.prompt), chain(response)
        pairs, wrong = [], 0
        for mine, theirs in itertools.zip_longest([step.result for step in steps], given, fillvalue="nothing"):
            wrong += mine != theirs
            pairs.append(f"{mine} {theirs} {'same' if mine == theirs else 'different'} {wrong} wrong")
        verdict = verdict_line(Verdict.NOT_QUALIFIED if wrong else Verdict.QUALIFIED)
        return f"Steps: {', '.join(map(str, steps))}\nCompare: {', '.join(pairs)}\n{verdict}"


def chain(response: str) -> list[str]:
    """The results in a response: the numbers of the last line with the most numbers.

    So a preamble, separators and a closing remark do no harm.
    """
    lines = [re.findall(r"(?<!\w)\d{1,9}(?!\w)", line) for line in response.split("\n")]
    return [str(int(number)) for number in max(reversed(lines), key=len)]
