"""Measures models on problems with known answers: direct and refined accuracy, and their verdicts.

This module may see gold answers, so the algorithm does not import it. A quarantined answer (cut,
empty) counts as wrong: every figure is over all problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from selfevo.method.answer_extraction import answer_key, declared_answer, last_number, read_number
from selfevo.method.inference import Draft, answer, criticise, elect
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Finish
from selfevo.method.records import Judged, Prompt
from selfevo.method.skills import RESPOND
from selfevo.method.verdicts import Verdict
from selfevo.rundir.results import Audit, Extractors, Mode, ModelResults, Split, Verdicts
from selfevo.rundir.scores import Comparisons, Score, to_bits
from selfevo.rundir.workspace import StageRunner
from selfevo.statistics import natural
from selfevo.tasks.base import Checker, Problem


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one model on one problem."""

    problem: Problem
    response: str
    feedback: str
    refined: str
    verdict: Verdict
    right: Score
    right_refined: Score
    finish: Finish = "stop"  # of the response
    right_voted: Score | None = None  # the vote of several samples, if asked for
    right_both: Score | None = None  # the vote of the refined samples


class Grader(Protocol):
    """Scores the answers of a model."""

    def grade(self, mode: Mode, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
        """A score for each answer; the text "" is an incomplete one."""
        ...


@dataclass(frozen=True, slots=True)
class Checks:
    """Grades by a program: right or wrong."""

    checker: Checker

    def grade(self, mode: Mode, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
        return [
            float(bool(text) and self.checker.is_correct(problem, text))
            for problem, text in zip(problems, texts, strict=True)
        ]


def measure(
    runner: StageRunner,
    task: Checker | Grader,
    problems: Sequence[Problem],
    consistency: int = 1,
    temperature: float = 0.7,
) -> list[Outcome]:
    """Measures a model on each problem, by the rule of inference.py, with greedy decoding.

    With `consistency` above 1, that many samples also vote, before and after refinement.
    """
    grader = Checks(task) if isinstance(task, Checker) else task
    prompts, wording = [problem.prompt for problem in problems], runner.wording
    work = answer(runner.generations, prompts, wording=wording)
    direct = grader.grade("direct", problems, [drafts[0].text for drafts in work])
    refined = grader.grade("refined", problems, [drafts[-1].text for drafts in work])
    outcomes = [_outcome(*each) for each in zip(problems, work, direct, refined, strict=True)]
    if consistency == 1:
        return outcomes
    warm = {RESPOND.name: replace(runner.sampling[RESPOND.name], temperature=temperature)}
    runners = [runner.beside(f"sample-{number}", warm) for number in range(1, consistency + 1)]
    samples = list(zip(*(answer(each.generations, prompts, wording=wording) for each in runners), strict=True))
    ask = runner.beside("vote", {}).generations
    first = elect(ask, prompts, [[drafts[0] for drafts in several] for several in samples], wording=wording)
    last = elect(ask, prompts, [[drafts[-1] for drafts in several] for several in samples], wording=wording)
    voted = grader.grade("consistency", problems, [draft.text for _, draft in first])
    both = grader.grade("both", problems, [draft.text for _, draft in last])
    return [
        replace(outcome, right_voted=plain, right_both=refined)
        for outcome, plain, refined in zip(outcomes, voted, both, strict=True)
    ]


def _outcome(problem: Problem, drafts: Sequence[Draft], right: Score, refined: Score) -> Outcome:
    first, last = drafts[0], drafts[-1]
    return Outcome(
        problem,
        first.generation.text,
        first.feedback.text if first.feedback else "",
        last.generation.text,
        first.verdict,
        right,
        refined,
        first.generation.finish,
    )


def summarise_outcomes(
    name: str,
    outcomes: Sequence[Outcome],
    seconds: float,
    extractors: Extractors | None = None,
    compared: Mapping[Mode, Comparisons] | None = None,
) -> ModelResults:
    """The results of one model for results.json. `seconds` is the time that it took.

    `compared` says more of each way to answer, where a judge compares.
    """
    answers: dict[Mode, list[Score]] = {
        "direct": [o.right for o in outcomes],
        "refined": [o.right_refined for o in outcomes],
    }
    votes: dict[Mode, list[Score]] = {
        "consistency": [o.right_voted for o in outcomes if o.right_voted is not None],
        "both": [o.right_both for o in outcomes if o.right_both is not None],
    }
    answers |= {mode: scores for mode, scores in votes.items() if scores}
    verdicts = Verdicts(
        qualified=sum(o.verdict is Verdict.QUALIFIED for o in outcomes),
        qualified_right=sum(o.verdict is Verdict.QUALIFIED and o.right in (1, 0.5) for o in outcomes),
        unparsed=sum(o.verdict is Verdict.UNKNOWN for o in outcomes),
    )
    return ModelResults(
        name=name,
        answers={mode: to_bits(right) for mode, right in answers.items()},
        verdicts=verdicts,
        incomplete=dict(sorted(Counter(o.finish for o in outcomes if o.finish != "stop").items())),
        compared=dict(compared or {}),
        extractors=extractors,
        seconds=round(seconds, 1),
    )


def group(problems: Sequence[Problem]) -> dict[Split, dict[str, str]]:
    """The problems of each kind and difficulty, as bits for results.json."""
    splits: dict[Split, list[str]] = {
        "kind": [problem.kind for problem in problems],
        "difficulty": [problem.difficulty for problem in problems],
    }
    return {
        by: {name: to_bits([each == name for each in names]) for name in sorted(set(names) - {""}, key=natural)}
        for by, names in splits.items()
        if any(names)
    }


def extract(outcomes: Sequence[Outcome]) -> Extractors | None:
    """How far the accuracy depends on how numbers are read. None if the answers are not numbers."""
    gold = [read_number(o.problem.answer) for o in outcomes]
    if not outcomes or None in gold:
        return None
    strict, flexible = ([read(o.response) for o in outcomes] for read in (declared_answer, last_number))
    return Extractors(
        agree=sum(a == b for a, b in zip(strict, flexible, strict=True)),
        declared=sum(a is not None for a in strict),
        strict=sum(a == b for a, b in zip(strict, gold, strict=True)),
        flexible=sum(a == b for a, b in zip(flexible, gold, strict=True)),
    )


def audit(
    task: Checker,
    problems: Mapping[str, Problem],
    judged: Sequence[Judged],
    kept: Sequence[bool],
    wording: Wording = ENGLISH,
) -> Audit:
    """How good a filter was. `problems` holds the known answers by prompt id. Never trained on."""
    known = [problems[row.prompt_id] for row in judged]
    before = [task.is_correct(problem, row.response) for problem, row in zip(known, judged, strict=True)]
    right = [task.is_correct(problem, row.refinement) for problem, row in zip(known, judged, strict=True)]
    verdicts = [wording.parse(row.judgement) for row in judged]
    return Audit(
        judged=len(judged),
        response_right=sum(before),
        right=sum(right),
        both_right=sum(b and r for b, r in zip(before, right, strict=True)),
        kept=sum(kept),
        kept_right=sum(r and k for r, k in zip(right, kept, strict=True)),
        verdicts={
            verdict: (
                verdicts.count(verdict),
                sum(r for r, v in zip(right, verdicts, strict=True) if v is verdict),
            )
            for verdict in Verdict
        },
    )


def self_agreement(runner: StageRunner, prompts: Sequence[Prompt], samples: int, temperature: float) -> list[float]:
    """A score in [0, 1] for each prompt, without known answers.

    Half of it is the share of `samples` that agree with the greedy response. The other half is 1 if
    the model's own feedback calls that response qualified.
    """
    ask = runner.generations
    greedy = criticise(ask, prompts, [Draft(generation) for generation in ask(RESPOND, prompts)], runner.wording)
    drawn = runner.sample(RESPOND, prompts, samples, temperature)
    scores = []
    for draft, several in zip(greedy, drawn, strict=True):
        key = answer_key(draft.text)
        agreeing = sum(g.finish == "stop" and answer_key(g.text) == key for g in several)
        yes = draft.verdict is Verdict.QUALIFIED
        scores.append((agreeing / samples + yes) / 2 if draft.text else 0.0)
    return scores
