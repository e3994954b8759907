"""The ablation `gold_filter`: rounds keep the right rows.

It wraps the workspace. The method gets its usual filters, so no filter of the method holds a gold
answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from selfevo.config.run_config import RunConfig
from selfevo.inputs.splits import Splits
from selfevo.method.evolution import StageRunner, Workspace
from selfevo.method.filters import BY_FORM, Filter, Reason, Sampler
from selfevo.method.prompts import Wording
from selfevo.method.protocols import Model
from selfevo.method.records import Example, Judged, Prompt
from selfevo.method.rows import Rows
from selfevo.method.skills import Skill
from selfevo.method.thinking import spoken
from selfevo.tasks import load_checked_task
from selfevo.tasks.base import Problem, Task

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """The problems of the rounds, by prompt id, each with its task."""

    problems: Mapping[str, Problem]
    tasks: Mapping[str, Task]

    @classmethod
    def of(cls, config: RunConfig, splits: Splits) -> KnownAnswers:
        """The problems of the pool and of the audit."""
        audited = {problem.prompt.id: problem for problem in splits.audit}
        tasks = dict(splits.pool_tasks)
        if config.audit:
            tasks |= dict.fromkeys(audited, load_checked_task(config.audit.task))
        return cls({**audited, **splits.pool_answers}, tasks)

    def is_correct(self, problem: Problem, response: str) -> bool:
        return self.tasks[problem.prompt.id].is_correct(problem, spoken(response))


@dataclass(frozen=True, slots=True)
class IsRight:
    """A filter that drops wrong rows."""

    answers: KnownAnswers

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        return lambda row: None if self._is_right(row) else "wrong"

    def _is_right(self, row: Judged) -> bool:
        return self.answers.is_correct(self.answers.problems[row.prompt_id], row.refinement)


@dataclass(frozen=True, slots=True)
class GoldRunner:
    """A runner that drops wrong rows. Of the given filters, only those by form are applied."""

    inner: StageRunner
    answers: KnownAnswers

    def generate(self, skill: Skill[In, Out], rows: Rows[In]) -> Rows[Out]:
        return self.inner.generate(skill, rows)

    def filter(self, rows: Rows[Judged], filters: Sequence[Filter]) -> Rows[Judged]:
        return self.inner.filter(
            rows, [IsRight(self.answers), *(each for each in filters if isinstance(each, BY_FORM))]
        )


@dataclass(frozen=True, slots=True)
class GoldWorkspace:
    """A workspace whose rounds keep the right rows."""

    inner: Workspace
    answers: KnownAnswers

    @property
    def wording(self) -> Wording:
        return self.inner.wording

    def runner(self, name: str, model: Model) -> StageRunner:
        return GoldRunner(self.inner.runner(name, model), self.answers)

    def train(self, name: str, start: Model, examples: Sequence[Example]) -> Model:
        return self.inner.train(name, start, examples)
