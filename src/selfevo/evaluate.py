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

import numpy as np

from selfevo.answers import answer_key, declared_answer, last_number, read_number, vote
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Checker, Generation, Problem, Task
from selfevo.records import Critiqued, Drafted, Judged, Prompt
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
    ended: bool = True  # the response came to an end, and
    ended_refined: bool = True  # so did the refined one
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
        # What did not come to an end has no vote, and of a text that was refined nobody has given a verdict.
        drafts = [answer_key(sample.response) if sample.ended else "" for sample in drawn]
        finals = [answer_key(sample.refined) if sample.ended_refined else "" for sample in drawn]
        replaced = [sample.refined != sample.response for sample in drawn]
        verdicts = [sample.verdict for sample in drawn]
        unseen = [Verdict.UNKNOWN if new else old for new, old in zip(replaced, verdicts, strict=True)]
        plain, both = drawn[vote(drafts, verdicts)], drawn[vote(finals, unseen)]
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
                responses[i].finish == "stop",
                final.finish == "stop",
            )
        )
    return outcomes


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
    task: Checker, problems: Mapping[str, Problem], judged: Sequence[Judged], kept: Sequence[bool]
) -> dict[str, Any]:
    """How good a filter was, where answers are known: `problems` by prompt id. Reported, never trained on.

    `verdicts` counts r^ by the verdict on it, one that cannot be read being a third class, as [all, right of them].
    """
    known = [problems[Prompt.of(row.prompt).id] for row in judged]
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


def self_agreement(room: Room, prompts: Sequence[Prompt], samples: int, temperature: float) -> list[float]:
    """A score in [0, 1] for each prompt without its answer: half of it the share of `samples` that give the answer of
    the greedy response, half whether the model's own feedback says that it is qualified."""
    greedy = room.generations(RESPOND, prompts)
    drafted = [Drafted(p.id, p.prompt, g.text) for p, g in zip(prompts, greedy, strict=True)]
    whole = [i for i, g in enumerate(greedy) if g.finish == "stop"]
    feedback = dict(zip(whole, room.generations(CRITIQUE, [drafted[i] for i in whole]), strict=True))
    drawn = room.again(RESPOND, prompts, samples, temperature)
    scores = []
    for i, (response, several) in enumerate(zip(greedy, drawn, strict=True)):
        key = answer_key(response.text)
        agreeing = sum(g.finish == "stop" and answer_key(g.text) == key for g in several)
        yes = i in feedback and feedback[i].finish == "stop" and parse_verdict(feedback[i].text) is Verdict.QUALIFIED
        scores.append((agreeing / samples + yes) / 2 if i in feedback else 0.0)
    return scores


def compare(name_a: str, a: Sequence[float], name_b: str, b: Sequence[float], mode: str) -> dict[str, Any]:
    """Paired comparison of two models on the same problems: the difference of their means, its 95 % interval, a p.

    Right or wrong: McNemar's exact test, interval of Bonett and Price (2012). Scores in between: a sign-flip test of
    the mean difference, normal interval.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    gained, lost, n = sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)
    if all(value in (0, 1) for value in (*a, *b)):
        p_value, interval = mcnemar_exact(gained, lost), bonett_price(gained, lost, n)
    else:
        p_value, interval = sign_flip(differences), normal_interval(differences)
    return {
        "a": name_a,
        "b": name_b,
        "mode": mode,
        "difference": sum(differences) / n,
        "ci": list(interval),
        "gained": gained,
        "lost": lost,
        "p_value": p_value,
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


def bonett_price(gained: int, lost: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval for a difference of paired proportions, 95 % by default: Wald's with one more pair on each side."""
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def normal_interval(differences: Sequence[float], z: float = 1.959964) -> tuple[float, float]:
    """Of the mean of paired differences, 95 % by default."""
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)
    half = z * math.sqrt(variance / len(differences))
    return mean - half, mean + half


def sign_flip(differences: Sequence[float], flips: int = 10_000) -> float:
    """Two-sided p-value of the mean of paired differences: under the null hypothesis their signs are fair coins."""
    values = np.array([d for d in differences if d])
    if not len(values):
        return 1.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (flips, len(values)))
    as_far = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((as_far.sum() + 1) / (flips + 1))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: the discordant pairs are a fair coin under the null hypothesis (McNemar 1947)."""
    n, k = gained + lost, min(gained, lost)
    return float(min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))
