"""Measures models on problems with known answers: accuracy direct and after self-refinement, and their own verdict.

Everything here may see gold answers; nothing of the algorithm imports it. A quarantined answer (truncated, empty) is a
wrong answer: every number is over all problems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfevo.answers import answer_key, declared_answer, last_number, read_number, vote
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Generation, Problem, Task
from selfevo.records import Critiqued, Drafted, Judged
from selfevo.run import Room
from selfevo.skills import CRITIQUE, REFINE, RESPOND


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
    room: Room, task: Task, problems: Sequence[Problem], consistency: int = 1, temperature: float = 0.7
) -> list[Outcome]:
    """Answers every problem greedily, lets the model criticise each answer, and refine those it judges not qualified.

    The refined answer is r^ where the verdict on r was "not qualified", else r: a model that cannot tell says nothing.
    With `consistency` above 1 so many samples are drawn besides, and vote, before and after refinement (answers.vote).
    """
    outcomes = _once(room, task, problems)
    if consistency == 1:
        return outcomes
    respond = room.run.sampling[RESPOND.name]
    sampling = {**room.run.sampling, RESPOND.name: replace(respond, temperature=temperature)}
    warm = replace(room.run, sampling=sampling)
    samples = [
        _once(warm.room(f"{room.name}-sample-{number}", room.model), task, problems)
        for number in range(1, consistency + 1)
    ]
    voted = []
    for greedy, *drawn in zip(outcomes, *samples, strict=True):
        verdicts = [sample.verdict for sample in drawn]
        plain = drawn[vote([answer_key(sample.response) for sample in drawn], verdicts)]
        both = drawn[vote([answer_key(sample.refined) for sample in drawn], verdicts)]
        voted.append(replace(greedy, right_voted=plain.right, right_both=both.right_refined))
    return voted


def _once(room: Room, task: Task, problems: Sequence[Problem]) -> list[Outcome]:
    responses = room.generations(RESPOND, [problem.prompt for problem in problems])
    drafted = [Drafted(p.prompt.id, p.prompt.prompt, g.text) for p, g in zip(problems, responses, strict=True)]
    whole = [i for i, g in enumerate(responses) if g.finish == "stop"]
    feedback = dict(zip(whole, room.generations(CRITIQUE, [drafted[i] for i in whole]), strict=True))
    verdicts = {i: parse_verdict(g.text) if g.finish == "stop" else Verdict.UNKNOWN for i, g in feedback.items()}
    doubtful = [i for i in whole if verdicts[i] is Verdict.NOT_QUALIFIED]
    critiqued = [Critiqued(drafted[i].id, drafted[i].prompt, drafted[i].response, feedback[i].text) for i in doubtful]
    refined = dict(zip(doubtful, room.generations(REFINE, critiqued), strict=True))

    def right(i: int, generation: Generation) -> bool:
        return generation.finish == "stop" and task.is_correct(problems[i], generation.text)

    outcomes = []
    for i, problem in enumerate(problems):
        final = refined.get(i, responses[i])
        outcomes.append(
            Outcome(
                problem,
                responses[i].text,
                feedback[i].text if i in feedback else "",
                final.text,
                verdicts.get(i, Verdict.UNKNOWN),
                right(i, responses[i]),
                right(i, final),
            )
        )
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers of one model, as results.json holds them."""
    direct, refined = [o.right for o in outcomes], [o.right_refined for o in outcomes]
    voted = [o.right_voted for o in outcomes if o.right_voted is not None]
    both = [o.right_both for o in outcomes if o.right_both is not None]
    said_yes = [o for o in outcomes if o.verdict is Verdict.QUALIFIED]
    return {
        "direct": rate(direct),
        "refined": rate(refined),
        "consistency": rate(voted) if voted else None,
        "both": rate(both) if both else None,
        "transitions": {
            f"{'right' if a else 'wrong'}_{'right' if b else 'wrong'}": sum(
                (x, y) == (a, b) for x, y in zip(direct, refined, strict=True)
            )
            for a in (True, False)
            for b in (True, False)
        },
        "verdict": {
            "precision": share([o.right for o in said_yes]),
            "precision_ci": list(wilson(sum(o.right for o in said_yes), len(said_yes))),
            "recall": share([o.verdict is Verdict.QUALIFIED for o in outcomes if o.right]),
            "qualified": len(said_yes),
            "unparsed": sum(o.verdict is Verdict.UNKNOWN for o in outcomes),
        },
        "by_kind": _split(outcomes, [o.problem.kind for o in outcomes]),
        "by_difficulty": _split(outcomes, [o.problem.difficulty for o in outcomes]),
    }


def _split(outcomes: Sequence[Outcome], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy within each group, in natural order (2 before 10); problems of no group are in none."""
    split: dict[str, dict[str, Any]] = {}
    for group in sorted(set(groups) - {""}, key=natural):
        own = [o for o, name in zip(outcomes, groups, strict=True) if name == group]
        split[group] = {"direct": rate([o.right for o in own]), "refined": rate([o.right_refined for o in own])}
    return split


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers within names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


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
    task: Task, problems: Mapping[str, Problem], judged: Sequence[Judged], kept: Sequence[Judged]
) -> dict[str, Any]:
    """How good a filter was, where the answers of the pool happen to be known. Reported, never trained on."""
    right = {row.id: task.is_correct(problems[row.id], row.refinement) for row in judged}
    kept_right = sum(right[row.id] for row in kept)
    return {
        "judged": len(judged),
        "right": sum(right.values()),
        "kept": len(kept),
        "kept_right": kept_right,
        "precision": kept_right / len(kept) if kept else None,
        "recall": kept_right / sum(right.values()) if sum(right.values()) else None,
        "response_right": sum(task.is_correct(problems[row.id], row.response) for row in judged),
    }


def compare(name_a: str, a: Sequence[bool], name_b: str, b: Sequence[bool], mode: str) -> dict[str, Any]:
    """Paired comparison of two models on the same problems."""
    gained, lost = (
        sum(x and not y for x, y in zip(a, b, strict=True)),
        sum(y and not x for x, y in zip(a, b, strict=True)),
    )
    return {
        "a": name_a,
        "b": name_b,
        "mode": mode,
        "difference": (sum(a) - sum(b)) / len(a),
        "gained": gained,
        "lost": lost,
        "p_value": mcnemar_exact(gained, lost),
    }


def rate(values: Sequence[bool]) -> dict[str, Any]:
    return {
        "n": len(values),
        "correct": sum(values),
        "accuracy": share(values),
        "ci": list(wilson(sum(values), len(values))),
    }


def share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval for a proportion, 95 % by default (Wilson 1927). (0, 1) when n is 0: nothing is known."""
    if n == 0:
        return (0.0, 1.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # exactly: rounding leaves 1e-18
    return (low, 1.0 if successes == n else min(1.0, centre + half))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: the discordant pairs are a fair coin under the null hypothesis (McNemar 1947)."""
    n, k = gained + lost, min(gained, lost)
    return float(min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))
