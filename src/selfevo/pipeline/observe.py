"""Observes a run: measures each model, monitors each round's rows, and decides when to stop.

It may see gold answers. They never reach a training row, only results.json, the report, and the
decision to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from selfevo.config.run_config import RunConfig
from selfevo.config.sources import PromptsGate
from selfevo.config.task import TaskConfig
from selfevo.errors import RunError
from selfevo.evaluation.alarms import of_annotation, of_evaluation, of_round, of_training
from selfevo.evaluation.evaluate import audit, group, measure, self_agreement, summarise_outcomes
from selfevo.evaluation.gate import Gate
from selfevo.evaluation.judge import Judge
from selfevo.evaluation.monitors import alarms, round_figures
from selfevo.inputs.annotation import unannotated
from selfevo.inputs.splits import Splits
from selfevo.method import evolution
from selfevo.method.evolution import trajectories
from selfevo.method.filters import Filter
from selfevo.method.names import round_name, round_number
from selfevo.method.protocols import Generation, Model
from selfevo.method.records import Judged, from_row
from selfevo.method.skills import RESPOND
from selfevo.pipeline.gold_filter import GoldWorkspace, KnownAnswers
from selfevo.pipeline.judging import Grading, warn_of_unread
from selfevo.report.model_card import write_card
from selfevo.report.page import write_report
from selfevo.report.terminal import complain
from selfevo.rundir.atomic_files import MODEL_MARKER, read_counts, read_marker, read_rows
from selfevo.rundir.inspect import lost_rows
from selfevo.rundir.layout import done
from selfevo.rundir.results import (
    Alarm,
    Audit,
    ModelResults,
    Results,
    RoundResults,
    RowCounts,
    read_results,
    write_results,
)
from selfevo.rundir.scores import from_bits, to_bits
from selfevo.rundir.workspace import StageRunner, Workspace
from selfevo.tasks.base import Problem


@dataclass(slots=True)
class Observer:
    """Measures each model once and updates results.json and report.html. `stopped`: why rounds ended."""

    config: RunConfig
    workspace: Workspace
    splits: Splits
    filters: Sequence[Filter]
    base: Model | None = None  # answers for a judge's other side, and judges if nobody else does
    stopped: str = ""
    models: list[ModelResults] = field(default_factory=list)
    rounds: dict[str, RoundResults] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    _gate: Gate | None = None
    evolving: evolution.Workspace = field(init=False)  # runs the rounds and the audit
    _latest: Model | None = None
    _before: Results | None = None  # what earlier processes of the run have measured
    _audited: dict[str, Problem] = field(init=False)
    _answers: KnownAnswers = field(init=False)
    _grading: dict[str, Grading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._gate = Gate(self.config.gate) if self.config.gate else None
        with suppress(RunError):  # a damaged file is written anew
            self._before = read_results(self.workspace.root)
        self._alarm(*of_annotation(*unannotated(self.workspace.layout, self.config.corpus)))
        self._audited = {problem.prompt.id: problem for problem in self.splits.audit}
        self._answers = KnownAnswers.of(self.config, self.splits)
        gold = self.config.ablation.gold_filter
        self.evolving = GoldWorkspace(self.workspace, self._answers) if gold else self.workspace

    @property
    def alarmed(self) -> bool:
        """Whether an alarm ended the rounds. They can go on after a bound is changed."""
        return bool(self.stopped) and not (self._gate and self._gate.stopped)

    def measure(self, model: Model) -> bool:
        """Measures a model. False if the gate stops the run."""
        if model.path.parent == self.workspace.layout.models:
            figures = read_marker(model.path / MODEL_MARKER).get("figures", {})
            self._alarm(*of_training(model.name, figures, self.config.trainer.max_length))
        evaluation = self.config.evaluation
        wanted = "rounds" if round_number(model.name) else model.name
        if evaluation and wanted in evaluation.models:
            runner = self._greedy(f"evaluate-{model.name}", model)
            grader = self._graded("evaluate", evaluation.task, self.splits.evaluation).of(runner.name)
            outcomes = measure(runner, grader, self.splits.evaluation, evaluation.consistency)
            seconds = sum(self.workspace.seconds(stage) for stage in (model.name, runner.name))
            compared = grader.compared if isinstance(grader, Judge) else {}
            self.models.append(summarise_outcomes(model.name, outcomes, seconds, compared=compared))
            self._alarm(*of_evaluation(self.models[-1], self._limit(RESPOND.name)))
            warn_of_unread(self.models[-1])
        if self._gate and (model.name == self.config.first_model or round_number(model.name)):
            self._gate.admit(model.name, self._scores(model))
            if model.name != round_name(self.config.round_count):  # after the last round there is nothing left to stop
                self.stopped = self._gate.stopped
        self._latest = model
        self._update()
        if model.path.parent == self.workspace.layout.models:
            write_card(self.workspace.root, model.name)
        return not self.stopped

    def monitor(self, name: str) -> bool:
        """Monitors the filtered rows of a round. False if an alarm stops the run."""
        monitors = self.config.monitors
        layout = self.workspace.layout
        limits = {skill: self._limit(skill) for skill in self.workspace.sampling}
        figures = round_figures(layout.stages / name, self.config.wording)
        found = alarms(name, figures, monitors)
        start = read_counts(done(layout.stage(name, RESPOND.name)))["in"]
        judged = read_counts(done(layout.filtered(name)))
        rows = RowCounts(kept=judged["kept"], rejected=judged["rejected"], quarantined=start - judged["in"])
        self.rounds[name] = RoundResults(name=name, rows=rows, monitors=figures, audit=self._audit(name))
        lost = {} if rows.kept else {stage: lost_rows(layout.stage(name, stage)) for stage in (*limits, "filter")}
        self._alarm(*found, *of_round(name, rows, lost, limits))
        if found and monitors.on_alarm == "stop":
            findings = "; ".join(alarm.finding for alarm in found)
            self.stopped = f"{name}: {findings} (monitors.on_alarm is stop)"
        self._update()
        return not self.stopped

    def _limit(self, skill: str) -> str:
        return f"skills.{skill}.max_new_tokens above {self.workspace.sampling[skill].max_new_tokens}"

    def _alarm(self, *found: Alarm) -> None:
        self.alarms += found
        for alarm in found:
            complain(str(alarm))

    def _update(self) -> None:
        """Writes, unless a resume has not yet come again to where the run was: the file knows more."""
        if self.stopped or not self._before or _extent(self._results()) >= _extent(self._before):
            self.write()

    def write(self) -> None:
        write_results(self.workspace.root, self._results())
        write_report(self.workspace.root)

    def _results(self) -> Results:
        evaluation = self.config.evaluation
        return Results(
            task=evaluation.task.name if evaluation else None,
            judge=self._graded("evaluate", evaluation.task, self.splits.evaluation).results() if evaluation else None,
            seed=self.config.seed,
            policy=self.config.policy,
            models=tuple(self.models),
            groups=group(self.splits.evaluation),
            rounds=tuple(self.rounds.values()),
            bounds=self.config.monitors.bounds(),
            gate=self._gate.results() if self._gate else None,
            alarms=tuple(self.alarms),
            stopped=self.stopped or None,
            seconds=round(self.workspace.seconds(""), 1),
        )

    def _greedy(self, name: str, model: Model) -> StageRunner:
        greedy = {skill: replace(s, temperature=0.0, top_p=1.0) for skill, s in self.workspace.sampling.items()}
        return self.workspace.runner(name, model, greedy)

    def _scores(self, model: Model) -> list[float]:
        gate, runner = self.config.gate, self._greedy(f"gate-{model.name}", model)
        assert gate is not None
        if isinstance(gate, PromptsGate):
            return self_agreement(runner, self.splits.dev_prompts, gate.samples, gate.temperature)
        outcomes = measure(runner, self._graded("gate", gate.task, self.splits.dev).of(runner.name), self.splits.dev)
        self._alarm(*of_evaluation(summarise_outcomes(runner.name, outcomes, 0), self._limit(RESPOND.name)))
        return from_bits(to_bits([o.right if gate.mode == "direct" else o.right_refined for o in outcomes]))

    def _graded(self, name: str, task: TaskConfig, problems: Sequence[Problem]) -> Grading:
        """How answers are graded: in the evaluation or by the gate."""

        def answers() -> list[Generation]:
            assert self.base is not None
            prompts = [problem.prompt for problem in problems]
            return self._greedy(f"{name}-{self.base.name}", self.base).generations(RESPOND, prompts)

        if name not in self._grading:
            self._grading[name] = Grading(task, problems, self.workspace, answers, self.base)
        return self._grading[name]

    def _audit(self, name: str) -> Audit | None:
        """Audits the problems of `audit`, which run beside the round, or else the round's own rows."""
        problems = self._audited or self.splits.pool_answers
        if not problems:
            return None
        if self._audited:
            assert self._latest is not None
            name = f"audit-{name}"
            runner = self.evolving.runner(name, self._latest)
            prompts = [problem.prompt for problem in self.splits.audit]
            runner.filter(trajectories(runner, prompts, self.config.ablation.refine), self.filters)
        rows = read_rows(self.workspace.layout.filtered(name))
        judged = [(from_row(Judged, row), row["kept"]) for row in rows]
        # A prompt that a model wrote has no known answer.
        known = [(row, kept) for row, kept in judged if row.prompt_id in problems]
        if not known:
            return None
        rows_known, kept = [row for row, _ in known], [kept for _, kept in known]
        return audit(self._answers, problems, rows_known, kept, self.config.wording)


def _extent(results: Results) -> int:
    """How much of a run has been measured."""
    return len(results.models) + len(results.rounds) + len(results.gate.rounds if results.gate else ())
