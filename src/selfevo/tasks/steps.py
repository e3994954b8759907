"""Problems with a short answer and a longer way to it: counting, adding, following moves.

Written at once, the answer has to come out of a single glance; checked, it can be worked out step by step. That is the
gap between answering and criticising that self-evolution lives on: the annotator's feedback shows the steps, and a
small model learns to take them long before it learns to answer without.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from selfevo.errors import ConfigError, DataError
from selfevo.prompts import Verdict, verdict_line
from selfevo.protocols import Problem
from selfevo.records import Prompt


@dataclass(frozen=True, slots=True)
class Kind:
    """`ask` draws a question; `steps` works one out, returning the steps in words and the answer."""

    ask: Callable[[random.Random], str]
    steps: Callable[[str], tuple[str, str]]


def _ask_count(random_: random.Random) -> str:
    letters = random_.sample("abcdefghijklmnop", 4)
    # The letter asked for three times as often as the others: half of the list, so that no count is a safe guess.
    drawn = random_.choices(letters, weights=(3, 1, 1, 1), k=random_.randint(8, 13))
    return f"Count the letter {letters[0]} in: {' '.join(drawn)}"


def _count(question: str) -> tuple[str, str]:
    head, _, items = question.partition(" in: ")
    wanted, seen, words = head[-1], 0, []
    for item in items.split():
        seen += item == wanted
        words.append(f"{item}{seen}" if item == wanted else item)
    return " ".join(words), str(seen)


def _ask_add(random_: random.Random) -> str:
    return f"Add: {' '.join(str(random_.randint(2, 9)) for _ in range(random_.randint(3, 5)))}"


def _add(question: str) -> tuple[str, str]:
    total, *rest = map(int, question.partition(": ")[2].split())
    words = []
    for number in rest:
        words.append(f"{total}+{number}={total + number}")
        total += number
    return " ".join(words), str(total)


def _ask_lift(random_: random.Random) -> str:
    start = floor = random_.randint(2, 7)
    moves = []
    for _ in range(random_.randint(6, 10)):  # between floors 0 and 9, so that a floor is one digit
        up = floor == 0 or (floor < 9 and random_.random() < 0.5)
        floor += 1 if up else -1
        moves.append("up" if up else "down")
    return f"A lift on floor {start} goes: {' '.join(moves)}. Which floor now?"


def _lift(question: str) -> tuple[str, str]:
    start, moves = re.findall(r"floor (\d) goes: ([a-z ]+)\.", question)[0]
    floor, words = int(start), []
    for move in moves.split():
        floor += 1 if move == "up" else -1
        words.append(f"{move}{floor}")
    return " ".join(words), str(floor)


KINDS = {
    "count-letters": Kind(_ask_count, _count),
    "add-digits": Kind(_ask_add, _add),
    "ride-lift": Kind(_ask_lift, _lift),
}


@dataclass(frozen=True, slots=True)
class StepsTask:
    """Problems of one or several kinds, in turn."""

    name: str
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"unknown task {kind!r}; there are {', '.join(KINDS)}")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        random_ = random.Random(seed)
        seen = set(exclude)
        problems: list[Problem] = []
        for _ in range(100 * count):
            if len(problems) == count:
                return problems
            name = self.kinds[len(problems) % len(self.kinds)]
            prompt = Prompt.of(KINDS[name].ask(random_))
            if prompt.id not in seen:
                seen.add(prompt.id)
                problems.append(Problem(prompt, KINDS[name].steps(prompt.prompt)[1], name))
        raise DataError(f"{self.name} has no {count} problems beyond the {len(exclude)} already used; ask for fewer")

    def is_correct(self, problem: Problem, response: str) -> bool:
        return last_number(response) == problem.answer

    def solution(self, problem: Problem) -> str:
        return problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback in words: the steps, the result beside what the response says, the verdict."""
        steps, result = KINDS[problem.kind].steps(problem.prompt.prompt)
        verdict = Verdict.QUALIFIED if self.is_correct(problem, response) else Verdict.NOT_QUALIFIED
        said = last_number(response) or "nothing"
        return f"Steps: {steps}\nThe result is {result}, the answer says {said}.\n{verdict_line(verdict)}"


def last_number(response: str) -> str | None:
    """The last whole number in a response, as digits without leading zeros: words around an answer do not count."""
    numbers = re.findall(r"(?<![\d.])\d{1,9}(?!\d)", response)
    return str(int(numbers[-1])) if numbers else None
