"""A task whose problems you give as a table: for tests, and to try an evaluation."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from selfevo.errors import DataError
from selfevo.method.prompts import verdict_line
from selfevo.method.records import Prompt
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem


@dataclass(frozen=True, slots=True)
class ScriptedTask:
    """`answers` maps each question to its only right response."""

    answers: Mapping[str, str]
    name: str = "scripted"

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        problems = [Problem(Prompt.of(question), answer, self.name) for question, answer in self.answers.items()]
        free = [problem for problem in problems if problem.prompt.id not in exclude]
        if count > len(free):
            raise DataError(f"{self.name} has {len(free)} unused problems, not {count}; ask for fewer")
        return random.Random(seed).sample(free, count)

    def is_correct(self, problem: Problem, response: str) -> bool:
        return response.strip() == problem.answer

    def solution(self, problem: Problem, response: str = "") -> str:
        return problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        if self.is_correct(problem, response):
            return f"The answer is {problem.answer}.\n{verdict_line(Verdict.QUALIFIED)}"
        return f"The answer is {problem.answer}, not {response.strip()}.\n{verdict_line(Verdict.NOT_QUALIFIED)}"
