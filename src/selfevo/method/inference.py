"""Inference: which text is the answer. The one place that decides it, for evaluation, gate and `Refiner` alike.

1. The model responds (r). It criticises r, and refines it where the verdict says "not qualified" (or always, if asked).
2. A refinement that came replaces the response. One that did not come (it was cut, empty or refused, or its feedback
   was) changes nothing: the answer is what stood before it.
3. Several samples vote. A text that did not come has no vote unless none came. Equal counts are decided by verdicts:
   more qualified ones, then fewer not qualified ones, then the sample that came first. A tied text that nobody has
   judged yet is judged for that.

Evolution shares the steps and not this rule: there every response is refined, and a row whose refinement did not come
is quarantined, never trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from selfevo.method.answer_extraction import answer_key
from selfevo.method.prompts import Verdict, parse_verdict
from selfevo.method.protocols import Generation
from selfevo.method.records import Critiqued, Drafted, Prompt, Refined
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill

When = Literal["never", "if-judged-wrong", "always"]


class Ask(Protocol):
    """Asks the model for a skill, with the sampling that belongs to it: one generation per row, in order."""

    def __call__(self, skill: Skill[Any, Any], rows: Sequence[Any]) -> list[Generation]: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """One text on the way to an answer, and the feedback on it, None where nobody asked for any."""

    generation: Generation
    feedback: Generation | None = None

    @property
    def text(self) -> str:
        """ "" where it did not come to an end."""
        return _whole(self.generation)

    @property
    def said(self) -> str:
        """The feedback in words, "" where none came."""
        return _whole(self.feedback)

    @property
    def verdict(self) -> Verdict:
        return parse_verdict(self.said)


def _whole(generation: Generation | None) -> str:
    return generation.text if generation is not None and generation.finish == "stop" else ""


def answer(
    ask: Ask, prompts: Sequence[Prompt], when: When = "if-judged-wrong", rounds: int = 1
) -> list[tuple[Draft, ...]]:
    """The drafts of an answer to each prompt, the last of which is the answer; `rounds` refinements at most."""
    work = [[Draft(generation)] for generation in ask(RESPOND, prompts)]
    going = list(range(len(work)))
    for _ in range(rounds if when != "never" else 0):
        criticised = criticise(ask, [prompts[i] for i in going], [work[i][-1] for i in going])
        for i, draft in zip(going, criticised, strict=True):
            work[i][-1] = draft
        going = [i for i in going if _is_to_refine(work[i][-1], when)]
        rows = [Critiqued(**_of(prompts[i]), response=work[i][-1].text, feedback=work[i][-1].said) for i in going]
        refined = {i: Draft(generation) for i, generation in zip(going, ask(REFINE, rows), strict=True)}
        going = [i for i in going if refined[i].text]
        for i in going:
            work[i].append(refined[i])
    return [tuple(drafts) for drafts in work]


def criticise(ask: Ask, prompts: Sequence[Prompt], drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts with the model's feedback on each that has a text."""
    whole = [i for i, draft in enumerate(drafts) if draft.text]
    rows = [Drafted(**_of(prompts[i]), response=drafts[i].text) for i in whole]
    feedback = dict(zip(whole, ask(CRITIQUE, rows), strict=True))
    return [replace(draft, feedback=feedback.get(i)) for i, draft in enumerate(drafts)]


def _is_to_refine(draft: Draft, when: When) -> bool:
    return bool(draft.said) and (when == "always" or draft.verdict is Verdict.NOT_QUALIFIED)


def elect(
    ask: Ask,
    prompts: Sequence[Prompt],
    samples: Sequence[Sequence[Draft]],
    key: Callable[[str], str] = answer_key,
) -> list[tuple[int, Draft]]:
    """Of the samples for each prompt, the one that the majority elects: its position, and itself with the feedback that
    a tie may have called for. `key` says which texts are the same answer."""
    drafts = [list(several) for several in samples]
    keys = [[key(draft.text) if draft.text else "" for draft in several] for several in drafts]
    tied = [
        (i, j)
        for i, own in enumerate(keys)
        for j, name in enumerate(own)
        if name in (first := _leading(own)) and len(first) > 1 and _is_unjudged(drafts[i][j])
    ]
    if tied:  # as r^ of a trajectory is judged: the judge sees the prompt and this text alone
        rows = [Refined(**_of(prompts[i]), response="", feedback="", refinement=drafts[i][j].text) for i, j in tied]
        for (i, j), feedback in zip(tied, ask(JUDGE, rows), strict=True):
            drafts[i][j] = replace(drafts[i][j], feedback=feedback)
    elected = [vote(own, [draft.verdict for draft in several]) for own, several in zip(keys, drafts, strict=True)]
    return [(position, several[position]) for position, several in zip(elected, drafts, strict=True)]


def _is_unjudged(draft: Draft) -> bool:
    return bool(draft.text) and draft.feedback is None


def _of(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "prompt": prompt.prompt, "system": prompt.system, "history": prompt.history}


def vote(keys: Sequence[str], verdicts: Sequence[Verdict]) -> int:
    """The position that a majority vote elects, by point 3 above."""
    trust = {key: _trust(key, keys, verdicts) for key in _leading(keys)}
    return keys.index(max(trust, key=lambda key: trust[key]))  # the first of equals


def _leading(keys: Sequence[str]) -> list[str]:
    """The keys with the most votes, in the order in which they came; texts that did not come are "" and do not vote."""
    ballots = Counter(key for key in keys if key) or Counter(keys)
    return [key for key, count in ballots.items() if count == max(ballots.values())]


def _trust(key: str, keys: Sequence[str], verdicts: Sequence[Verdict]) -> tuple[int, int]:
    own = [verdict for other, verdict in zip(keys, verdicts, strict=True) if other == key]
    return own.count(Verdict.QUALIFIED), -own.count(Verdict.NOT_QUALIFIED)
