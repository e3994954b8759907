"""Measures models on problems with known answers: accuracy direct and after self-refinement, and their own verdict.

Everything here may see gold answers; nothing of the algorithm imports it. A quarantined answer (truncated, empty) is a
wrong answer: every number is over all problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfevo.evaluation.statistics import natural, rate, share, wilson
from selfevo.method.answer_extraction import answer_key, declared_answer, last_number, read_number
from selfevo.method.inference import Draft, answer, criticise, elect
from selfevo.method.prompts import Verdict, parse_verdict
from selfevo.method.records import Judged, Prompt
from selfevo.method.skills import RESPOND
from selfevo.rundir.workspace import StageRunner
from selfevo.tasks.base import Checker, Problem, Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """One problem, one model."""

    problem: Problem
    response: str
    feedback: str
    refined: str
    verdict: Verdict
    right: bool
    right_refined: bool
    right_voted: bool | None = None  # of several samples the majority, where asked for
    right_both: bool | None = None  # the majority of the refined samples


def measure(
    runner: StageRunner, task: Task, problems: Sequence[Problem], consistency: int = 1, temperature: float = 0.7
) -> list[Outcome]:
    """What the model makes of each problem by the rule of inference.py: greedily, criticised, and refined where its
    verdict says "not qualified".

    With `consistency` above 1 so many samples are drawn besides, and vote, before and after refinement.
    """
    prompts = [problem.prompt for problem in problems]
    outcomes = [
        _outcome(task, problem, drafts)
        for problem, drafts in zip(problems, answer(runner.generations, prompts), strict=True)
    ]
    if consistency == 1:
        return outcomes
    warm = {RESPOND.name: replace(runner.sampling[RESPOND.name], temperature=temperature)}
    runners = [runner.beside(f"sample-{number}", warm) for number in range(1, consistency + 1)]
    samples = list(zip(*(answer(each.generations, prompts) for each in runners), strict=True))
    ask = runner.beside("vote", {}).generations
    first = elect(ask, prompts, [[drafts[0] for drafts in several] for several in samples])
    last = elect(ask, prompts, [[drafts[-1] for drafts in several] for several in samples])
    return [
        replace(
            outcome,
            right_voted=_is_right(task, outcome.problem, plain),
            right_both=_is_right(task, outcome.problem, both),
        )
        for outcome, (_, plain), (_, both) in zip(outcomes, first, last, strict=True)
    ]


def _outcome(task: Task, problem: Problem, drafts: Sequence[Draft]) -> Outcome:
    first, last = drafts[0], drafts[-1]
    return Outcome(
        problem,
        first.generation.text,
        first.feedback.text if first.feedback else "",
        last.generation.text,
        first.verdict,
        _is_right(task, problem, first),
        _is_right(task, problem, last),
    )


def _is_right(task: Task, problem: Problem, draft: Draft) -> bool:
    return bool(draft.text) and task.is_correct(problem, draft.text)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers of one model, as results.json holds them."""
    direct, refined = [o.right for o in outcomes], [o.right_refined for o in outcomes]
    voted = [o.right_voted for o in outcomes if o.right_voted is not None]
    both = [o.right_both for o in outcomes if o.right_both is not None]
    said_yes = [o for o in outcomes if o.verdict is Verdict.QUALIFIED]
    modes = {"direct": direct, "refined": refined, "consistency": voted, "both": both}
    return {
        "direct": rate(direct),
        "refined": rate(refined),
        "consistency": rate(voted) if voted else None,
        "both": rate(both) if both else None,
        "transitions": transitions(direct, refined),
        "verdict": {
            "precision": share([o.right for o in said_yes]),
            "precision_ci": list(wilson(sum(o.right for o in said_yes), len(said_yes))),
            "recall": share([o.verdict is Verdict.QUALIFIED for o in outcomes if o.right]),
            "qualified": len(said_yes),
            "unparsed": sum(o.verdict is Verdict.UNKNOWN for o in outcomes),
        },
        "answers": {mode: _bits(right) for mode, right in modes.items() if right},
        "by_kind": _split(outcomes, [o.problem.kind for o in outcomes]),
        "by_difficulty": _split(outcomes, [o.problem.difficulty for o in outcomes]),
    }


def _bits(values: Sequence[bool]) -> str:
    """A 1 for each right answer, in the order of the problems: from these every paired test can be done again."""
    return "".join("01"[value] for value in values)


def _split(outcomes: Sequence[Outcome], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy within each group, in natural order (2 before 10); problems of no group are in none."""
    split: dict[str, dict[str, Any]] = {}
    for group in sorted(set(groups) - {""}, key=natural):
        own = [o for o, name in zip(outcomes, groups, strict=True) if name == group]
        split[group] = {"direct": rate([o.right for o in own]), "refined": rate([o.right_refined for o in own])}
    return split


def extractors(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """How much the accuracy of direct answers hangs on the way they are read; None where answers are no numbers.

    `strict` counts declared answers alone, `flexible` the last number, `ours` the rule of answers.py; `agreement` is
    the share of responses in which strict and flexible read the same.
    """
    gold = [read_number(o.problem.answer) for o in outcomes]
    if not outcomes or None in gold:
        return None
    strict, flexible = ([read(o.response) for o in outcomes] for read in (declared_answer, last_number))
    return {
        "agreement": share([a == b for a, b in zip(strict, flexible, strict=True)]),
        "declared": share([a is not None for a in strict]),
        "strict": share([a == b for a, b in zip(strict, gold, strict=True)]),
        "flexible": share([a == b for a, b in zip(flexible, gold, strict=True)]),
        "ours": share([o.right for o in outcomes]),
    }


def audit(
    task: Checker, problems: Mapping[str, Problem], judged: Sequence[Judged], kept: Sequence[bool]
) -> dict[str, Any]:
    """How good a filter was, where answers are known: `problems` by prompt id. Reported, never trained on.

    `verdicts` counts r^ by the verdict on it, one that cannot be read being a third class, as [all, right of them].
    """
    known = [problems[row.prompt_id] for row in judged]
    before = [task.is_correct(problem, row.response) for problem, row in zip(known, judged, strict=True)]
    right = [task.is_correct(problem, row.refinement) for problem, row in zip(known, judged, strict=True)]
    kept_right = sum(r and k for r, k in zip(right, kept, strict=True))
    verdicts = [parse_verdict(row.judgement) for row in judged]
    return {
        "judged": len(judged),
        "right": sum(right),
        "kept": sum(kept),
        "kept_right": kept_right,
        "precision": kept_right / sum(kept) if any(kept) else None,
        "recall": kept_right / sum(right) if any(right) else None,
        "response_right": sum(before),
        "transitions": transitions(before, right),
        "verdicts": {
            verdict.value: [
                verdicts.count(verdict),
                sum(r for r, v in zip(right, verdicts, strict=True) if v is verdict),
            ]
            for verdict in Verdict
        },
    }


def transitions(before: Sequence[bool], after: Sequence[bool]) -> dict[str, int]:
    """What refinement does: how many answers were right or wrong before, and are after."""
    pairs = list(zip(before, after, strict=True))
    names = {True: "right", False: "wrong"}
    return {f"{names[a]}_{names[b]}": pairs.count((a, b)) for a in (True, False) for b in (True, False)}


def self_agreement(runner: StageRunner, prompts: Sequence[Prompt], samples: int, temperature: float) -> list[float]:
    """A score in [0, 1] for each prompt without its answer: half of it the share of `samples` that give the answer of
    the greedy response, half whether the model's own feedback says that it is qualified."""
    ask = runner.generations
    greedy = criticise(ask, prompts, [Draft(generation) for generation in ask(RESPOND, prompts)])
    drawn = runner.sample(RESPOND, prompts, samples, temperature)
    scores = []
    for draft, several in zip(greedy, drawn, strict=True):
        key = answer_key(draft.text)
        agreeing = sum(g.finish == "stop" and answer_key(g.text) == key for g in several)
        yes = draft.verdict is Verdict.QUALIFIED
        scores.append((agreeing / samples + yes) / 2 if draft.text else 0.0)
    return scores
