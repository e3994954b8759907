"""Problems answered by a short list of numbers: sums and running totals.

An answer gives the results alone, so each has to come out at a glance. The annotator's feedback first works the whole
list out with every operand spelled out, without a look at the answer, then sets each result beside the answer's own
and says whether they agree. Working out is easier than answering, and comparing two things that stand next to each
other is easier still: a model of 135M parameters learns both from a few hundred trajectories. That gap is what
self-evolution lives on.
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

Step = tuple[str, str]  # how the step is worked out, in words, and its result


@dataclass(frozen=True, slots=True)
class Kind:
    """`ask` draws a question; `steps` works it out."""

    ask: Callable[[random.Random], str]
    steps: Callable[[str], list[Step]]


def _ask_totals(random_: random.Random) -> str:
    return f"Running totals: {' '.join(str(random_.randint(2, 9)) for _ in range(random_.randint(4, 5)))}"


def _totals(question: str) -> list[Step]:
    total, *rest = map(int, question.partition(": ")[2].split())
    steps = []
    for number in rest:
        steps.append((f"{total}+{number}=", str(total + number)))
        total += number
    return steps


def _ask_add(random_: random.Random) -> str:
    numbers = (random_.randint(11, 59) for _ in range(random_.randint(3, 5)))
    return f"Add {random_.randint(2, 5)} to each: {' '.join(map(str, numbers))}"


def _add(question: str) -> list[Step]:
    head, _, items = question.partition(" to each: ")
    extra = int(head.split()[1])
    return [(f"{number}+{extra}=", str(int(number) + extra)) for number in items.split()]


KINDS = {
    "add-to-each": Kind(_ask_add, _add),
    "running-totals": Kind(_ask_totals, _totals),
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
                break
            name = self.kinds[len(problems) % len(self.kinds)]
            prompt = Prompt.of(KINDS[name].ask(random_))
            if prompt.id not in seen:
                seen.add(prompt.id)
                answer = " ".join(result for _, result in KINDS[name].steps(prompt.prompt))
                problems.append(Problem(prompt, answer, name))
        if len(problems) < count:
            raise DataError(
                f"{self.name} has no {count} problems beyond the {len(exclude)} already used; ask for fewer"
            )
        return problems

    def is_correct(self, problem: Problem, response: str) -> bool:
        return chain(response) == problem.answer.split()

    def solution(self, problem: Problem) -> str:
        return problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback in words: the steps worked out, the answer beside them up to its first error, the verdict.

        It ends at the first error, so that the verdict stands next to what decides it: with the rest of the comparison
        in between, a model whose own comparison said "different" still concluded "qualified" (docs/lab-notebook.md).
        """
        kind = KINDS[problem.kind]
        steps, given = kind.steps(problem.prompt.prompt), chain(response)
        pairs, error = [], ""
        for i, (work, result) in enumerate(steps):
            mine = given[i] if i < len(given) else "nothing"
            pairs.append(f"{result} {mine} {'same' if mine == result else 'different'}")
            if mine != result:
                error = f": {work}{result} not {mine}"
                break
        if not error and len(given) > len(steps):
            error = f": {given[len(steps)]} is one too many"
        worked = " ".join(f"{work}{result}" for work, result in steps)
        verdict = verdict_line(Verdict.NOT_QUALIFIED if error else Verdict.QUALIFIED)
        return f"Steps: {worked}\nCompare: {', '.join(pairs)}{error}\n{verdict}"


def chain(response: str) -> list[str]:
    """The results in a response: the numbers of the line that has the most of them, the last of such lines. A preamble,
    separators and a closing remark therefore do not count against an answer."""
    lines = [re.findall(r"(?<!\w)\d{1,9}(?!\w)", line) for line in response.split("\n")]
    return [str(int(number)) for number in max(reversed(lines), key=len)]
