"""Sorting short lists: easy to check step by step, hard enough for a small model to get right in one go.

The annotator's feedback walks the list instead of stating an opinion: is each item of the question in the answer, how
does each item compare with the next. Both are local checks that a model of 135M parameters can learn from a few hundred
examples, and together they decide the verdict.
"""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass
from itertools import pairwise

from selfevo.errors import ConfigError, DataError
from selfevo.prompts import Verdict, verdict_line
from selfevo.protocols import Problem
from selfevo.records import Prompt

NUMBER_WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
).split()


@dataclass(frozen=True, slots=True)
class Kind:
    """What is sorted: all possible items in their right order, and how many of them a question holds."""

    question: str
    items: tuple[str, ...]
    shortest: int
    longest: int


KINDS = {
    "sort-letters": Kind("Sort these letters:", tuple(string.ascii_lowercase), 8, 11),
    "sort-number-words": Kind("Sort these number words:", tuple(NUMBER_WORDS), 6, 9),
    "sort-numbers": Kind("Sort these numbers:", tuple(map(str, range(10, 100))), 6, 8),
}
# Named in a feedback at most: the walk above has them all, and a long tail of errors would be cut off anyway.
_MOST_ERRORS = 3


@dataclass(frozen=True, slots=True)
class SortingTask:
    """Problems of one or several kinds, in turn."""

    name: str
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"unknown sorting task {kind!r}; there are {', '.join(KINDS)}")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        random_ = random.Random(seed)
        seen = set(exclude)
        problems: list[Problem] = []
        for _ in range(100 * count):
            if len(problems) == count:
                return problems
            name = self.kinds[len(problems) % len(self.kinds)]
            kind = KINDS[name]
            items = random_.sample(kind.items, random_.randint(kind.shortest, kind.longest))
            prompt = Prompt.of(f"{kind.question} {' '.join(items)}")
            if prompt.id not in seen:
                seen.add(prompt.id)
                problems.append(Problem(prompt, " ".join(sorted(items, key=kind.items.index)), name))
        raise DataError(
            f"{self.name} does not have {count} problems beyond the {len(exclude)} already used; ask for fewer"
        )

    def is_correct(self, problem: Problem, response: str) -> bool:
        return answer_items(response) == problem.answer.split()

    def solution(self, problem: Problem) -> str:
        return problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback in words, from the gold answer. Its verdict agrees with `is_correct` by construction."""
        order = {item: i for i, item in enumerate(KINDS[problem.kind].items)}
        asked = problem.prompt.prompt.partition(": ")[2].split()
        given = answer_items(response)
        errors = [f"{item} is missing" for item in asked if item not in given]
        for i, item in enumerate(given):
            if item in given[:i]:
                errors.append(f"{item} is repeated")
            elif item not in asked:
                errors.append(f"{item} is not in the list")
        chain = given[:1]
        for left, right in pairwise(given):
            difference = order.get(right, len(order)) - order.get(left, len(order))
            chain += ["<" if difference > 0 else ">" if difference < 0 else "=", right]
            if difference < 0:
                errors.append(f"{right} comes before {left}")
        found = " ".join(f"{item} {'yes' if item in given else 'no'}" for item in asked)
        return (
            f"Found: {found}\nOrder: {' '.join(chain) or 'nothing'}\n"
            f"Errors: {'; '.join(errors[:_MOST_ERRORS]) or 'none'}\n"
            + verdict_line(Verdict.NOT_QUALIFIED if errors else Verdict.QUALIFIED)
        )


def answer_items(response: str) -> list[str]:
    """The list in a response: the items of its last line that is not empty, without separators and full stop.

    A preamble on its own line ("Here is the sorted list:") and commas therefore do not count against an answer.
    """
    lines = [line for line in response.strip().lower().split("\n") if line.strip()]
    return [item for item in re.split(r"[\s,;<>\[\]()]+", lines[-1].strip().rstrip(".")) if item] if lines else []
