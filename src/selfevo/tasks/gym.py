"""Generated problems from reasoning-gym (pip install reasoning-gym): gym:gsm_symbolic, gym:chain_sum, ...

If the gold answer is a number, answers are read by the rule of word_problems.py. If it is text, the
declared answer counts, else the last line. If it has several lines, the whole response counts.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from types import ModuleType
from typing import Any

from selfevo.errors import DataError, MissingExtraError
from selfevo.method.answer_extraction import DECLARATION, MAX_CHARACTERS, extract_answer, read_number
from selfevo.method.prompts import verdict_line
from selfevo.method.records import Prompt, content_id
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.sandbox import Child, ChildError
from selfevo.tasks.word_problems import explain_answer

ACCEPTED = 0.99  # least score_answer of a right answer; it gives less than 1 for a near one

# Their score_answer calls eval, or sympy's parse_expr, which calls eval: a model's text would run
# as code. `composite` may use any of the others.
EVALUATING = frozenset(
    {"binary_matrix", "composite", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication"}
    | {"puzzle24", "simple_integration", "spiral_matrix", "string_insertion"}
)


# The generator's entry for each problem, by task name and prompt id. Scoring needs it, and a
# Problem does not hold it. It is global, so that a second task with the same configuration can
# check the problems of the first.
_DRAWN: dict[tuple[str, str], dict[str, Any]] = {}

_CHILD = Child(imports="reasoning_gym")


@dataclass(frozen=True)
class GymTask:
    """The problems of one generator. `options` are fields of its configuration, except size and seed.

    Raises MissingExtraError without reasoning-gym, DataError for an unknown generator or option.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dataset(seed=0, size=1)

    @property
    def generator(self) -> str:
        return self.name.removeprefix("gym:")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        # The gym draws item i from seed + i, so neighbouring seeds would share nearly all of their
        # problems.
        spread = int(content_id(self.generator, seed), 16) % 2**31
        size = 4 * (count + len(exclude)) + 100
        dataset = self._dataset(spread, size)
        problems: list[Problem] = []
        seen = set(exclude)
        for index in range(size):
            if len(problems) == count:
                break
            entry = dataset[index]
            if not isinstance(entry["answer"], str):
                raise DataError(f"{self.name} gives no gold answers; choose another generator")
            prompt = Prompt.of(entry["question"])
            if prompt.id not in seen:
                seen.add(prompt.id)
                problems.append(Problem(prompt, entry["answer"], self.generator))
                _DRAWN[self.name, prompt.id] = entry
        if len(problems) < count:
            raise DataError(
                f"{self.name} gave {len(problems)} distinct problems in {size} draws, and {count} are asked for; ask "
                f"for fewer, or widen its ranges with task.options"
            )
        return problems

    def is_correct(self, problem: Problem, response: str) -> bool:
        entry = self._entry(problem)
        gold = read_number(problem.answer)
        if gold is None:
            answer = _text_answer(response, problem.answer)
        else:
            value = extract_answer(response)
            if value is None or value == gold:
                return value is not None
            if (value < 0) != (gold < 0):
                return False  # the score of gsm_symbolic ignores a minus sign
            answer = _plain(value)
        try:
            return bool(_CHILD.call(_score, self.generator, self.options, answer, entry) >= ACCEPTED)
        except ChildError:  # the score failed or did not end, so the answer counts as wrong
            return False

    def solution(self, problem: Problem, response: str = "") -> str:
        """The worked solution if the generator has one, else the answer."""
        worked = self._entry(problem).get("metadata", {}).get("answer_cot")
        return worked if isinstance(worked, str) and self.is_correct(problem, worked) else problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        """Feedback on `response` from the gold answer. It ends in the verdict."""
        correct = self.is_correct(problem, response)
        if read_number(problem.answer) is not None:
            return explain_answer(response, problem.answer, correct)
        given = " ".join(_text_answer(response, problem.answer).split())[:200]
        separator = "\n" if "\n" in problem.answer else " "
        if correct:
            finding = f"The final answer {given} is right."
        elif given:
            finding = f"The final answer {given} is wrong. It should be:{separator}{problem.answer}"
        else:
            finding = f"There is no final answer. It should be:{separator}{problem.answer}"
        return f"{finding}\n{verdict_line(Verdict.QUALIFIED if correct else Verdict.NOT_QUALIFIED)}"

    def _entry(self, problem: Problem) -> dict[str, Any]:
        if (self.name, problem.question_id) not in _DRAWN:
            raise DataError(
                f"{self.name} did not draw the problem {problem.prompt.prompt[:60]!r} in this process; first call "
                f"problems() with the arguments that gave it"
            )
        return _DRAWN[self.name, problem.question_id]

    def _dataset(self, seed: int, size: int) -> Any:
        gym = _reasoning_gym()
        known = sorted(set(gym.factory.DATASETS) - EVALUATING)
        if self.generator in EVALUATING:
            raise DataError(f"{self.name} evaluates answers as code, which is unsafe; choose another generator")
        if self.generator not in known:
            close = difflib.get_close_matches(self.generator, known, n=3)
            raise DataError(f"reasoning-gym has no {self.generator!r}; did you mean {', '.join(close or known)}?")
        if taken := {"seed", "size"} & self.options.keys():
            raise DataError(f"{self.name}: {', '.join(sorted(taken))} cannot be an option; remove it, the run sets it")
        try:
            return gym.create_dataset(self.generator, seed=seed, size=size, **self.options)
        except (AssertionError, TypeError, ValueError) as error:
            fields = ", ".join(gym.factory.DATASETS[self.generator][1].__dataclass_fields__.keys() - {"seed", "size"})
            raise DataError(
                f"{self.name} does not take the options {self.options}: {error}; it has {fields or 'none'}"
            ) from None


@cache
def _scorer(generator: str, options: str) -> Any:
    return _reasoning_gym().create_dataset(generator, seed=0, size=1, **json.loads(options))


def _score(generator: str, options: dict[str, Any], answer: str, entry: dict[str, Any]) -> float:
    """The generator's score of an answer, 0 to 1. Runs in the subprocess."""
    return float(_scorer(generator, json.dumps(options)).score_answer(answer, entry))


def _reasoning_gym() -> ModuleType:
    try:
        import reasoning_gym.factory
    except ImportError:
        raise MissingExtraError("tasks gym:NAME need an extra package: pip install reasoning-gym") from None
    module: ModuleType = reasoning_gym
    return module


def _text_answer(response: str, gold: str) -> str:
    text = response[-MAX_CHARACTERS:].strip()
    declarations = list(DECLARATION.finditer(text))
    if declarations:
        text = text[declarations[-1].end() :].strip()
    if "\n" in gold:
        return text
    lines = text.split("\n")
    line = (lines[0] if declarations else lines[-1]).strip()
    return line if gold.endswith(".") else re.sub(r"\.$", "", line)


def _plain(value: Fraction) -> str:
    """As a decimal, because the scores read no fractions: gsm_symbolic reads 1/3 as 1."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.12f}"
