"""Grades the answers of one model after the other: by the task's program, or by a judge with the answers to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from selfevo.config.task import TaskConfig
from selfevo.errors import ConfigError
from selfevo.evaluation.evaluate import Checks, Grader
from selfevo.evaluation.judge import Judge
from selfevo.evaluation.pairwise import same_family
from selfevo.method.protocols import Generation, Model, Sampling
from selfevo.method.records import Prompt, content_id
from selfevo.method.skills import RESPOND
from selfevo.models.resolve import resolve_model
from selfevo.report.terminal import complain
from selfevo.rundir.atomic_files import hash_model
from selfevo.rundir.ledger import Ledger
from selfevo.rundir.results import ModelResults
from selfevo.rundir.scores import JudgeResults
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_checked_task
from selfevo.tasks.base import Problem, Task
from selfevo.tasks.judged import JudgeRule
from selfevo.tasks.own_files import OwnFile

MAX_UNREAD = 0.3  # share of choices that cannot be read; above it there is a warning
LEDGER = "judge/server"  # of all that a judge behind a server costs


@dataclass(slots=True)
class Grading:
    """How the answers to `problems` are graded. `base` answers where the file of a judge has no answers to beat."""

    config: TaskConfig
    problems: Sequence[Problem]
    workspace: Workspace
    base: Callable[[], list[Generation]] | None
    judge: Model | None  # who judges if the configuration names nobody
    _task: Task = field(init=False)
    _reference: dict[str, str] | None = None

    def __post_init__(self) -> None:
        self._task = load_checked_task(self.config)

    def of(self, stage: str) -> Grader:
        """The grader of the answers in stages/STAGE."""
        task = self._task
        if not isinstance(task, OwnFile) or not isinstance(task.rule, JudgeRule):
            return Checks(task)
        workspace, judge = self._judge(task.rule)
        limits = {RESPOND.name: Sampling(task.rule.max_new_tokens)}

        def ask(mode: str, prompts: Sequence[Prompt]) -> list[Generation]:
            return workspace.runner(f"{stage}-judge-{mode}", judge, limits).generations(RESPOND, prompts)

        if self._reference is None:
            self._reference = self._answers(task)
        return Judge(ask, self._reference)

    def results(self) -> JudgeResults | None:
        """Who judges, and against which answers; None where a program checks."""
        task = self._task
        if not isinstance(task, OwnFile) or not isinstance(task.rule, JudgeRule) or self.judge is None:
            return None
        rule = task.rule
        name = rule.endpoint.model if rule.endpoint else rule.model or self.judge.name
        return JudgeResults(name=name, reference=str(task.path) if _is_recorded(task, self.problems) else "base")

    def _judge(self, rule: JudgeRule) -> tuple[Workspace, Model]:
        if rule.endpoint is not None:
            from selfevo.engines.openai import OpenAIEngine  # an extra

            engine = OpenAIEngine(rule.endpoint, Ledger(self.workspace.root, LEDGER))
            known = content_id(rule.endpoint.base_url, rule.endpoint.model)
            return replace(self.workspace, engine=engine), Model("judge", Path(rule.endpoint.model), known)
        if rule.model is not None:
            folder = resolve_model(rule.model)
            return self.workspace, Model("judge", folder, hash_model(folder))
        assert self.judge is not None
        return self.workspace, self.judge

    def _answers(self, task: OwnFile) -> dict[str, str]:
        """The answers to beat, by prompt id; "" for one that the base model did not end."""
        if _is_recorded(task, self.problems):
            return {problem.prompt.id: task.gold(problem).answers for problem in self.problems}
        if self.base is None:
            raise ConfigError(
                f"{task.path} has no answers in column {self.config.columns.answer!r}, and outside a run there is no "
                "base model to compare with; add recorded answers, or name their column with columns.answer"
            )
        texts = [generation.text if generation.finish == "stop" else "" for generation in self.base()]
        return {problem.prompt.id: text for problem, text in zip(self.problems, texts, strict=True)}


def _is_recorded(task: OwnFile, problems: Sequence[Problem]) -> bool:
    return task.gold(problems[0]).answers is not None


def warn_of_family(config: TaskConfig, model: str) -> None:
    """Warns of a judge of the same family as the models that it judges."""
    endpoint = (config.options.get("endpoint") or {}) if config.kind == "judge" else {}
    judge = endpoint.get("model") or config.options.get("model") or ""
    if family := same_family(str(judge), model):
        complain(f"judge and model are both of the family {family!r}, so the judge may prefer the model's own style")


def warn_of_unread(measured: ModelResults) -> None:
    """Warns of a judge whose choices cannot be read: what it leaves are ties."""
    for mode in measured.compared:
        unread, n = measured.wins(mode).unread, len(measured.answers[mode])
        if unread > MAX_UNREAD * n:
            complain(
                f"{measured.name}: the judge's choice could not be read in {unread} of {n} comparisons of {mode} "
                "answers, which count as ties; take a stronger judge, or raise options.max_new_tokens of the task"
            )
