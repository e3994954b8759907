"""The rule of inference: which text is the answer. Evaluation, gate and `Refiner` all use it.

1. The model responds (r). It criticises r, and refines r if the verdict is "not qualified" (or
   always, if asked).
2. A complete refinement replaces the response. If the refinement, or the feedback before it, is
   cut, empty or failed, the answer stays as it was.
3. Several samples vote. An incomplete text has no vote, unless all are incomplete. Ties are decided
   by verdicts: more "qualified", then fewer "not qualified", then the earlier sample. A tied text
   without feedback is judged first.

Evolution uses the same steps but not this rule: it refines every response, and it quarantines a row
without a complete refinement, so that the row is never trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from selfevo.method.answer_extraction import answer_key
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Generation
from selfevo.method.records import Critiqued, Drafted, Prompt, Refined
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill
from selfevo.method.thinking import spoken
from selfevo.method.verdicts import Verdict

When = Literal["never", "if-judged-wrong", "always"]


class Ask(Protocol):
    """Runs a skill with its own sampling settings. Returns one generation per row, in order."""

    def __call__(self, skill: Skill[Any, Any], rows: Sequence[Any]) -> list[Generation]: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """One text on the way to an answer, the feedback on it, and its verdict. None: no feedback was asked for.

    `refinement` is one that was asked for and did not come whole, so that this text stays the answer.
    """

    generation: Generation
    feedback: Generation | None = None
    verdict: Verdict = Verdict.UNKNOWN
    refinement: Generation | None = None

    @property
    def text(self) -> str:
        """The text; "" if it is incomplete."""
        return _whole(self.generation)

    @property
    def said(self) -> str:
        """The text of the feedback; "" if there is none or it is incomplete."""
        return _whole(self.feedback)

    def criticised(self, feedback: Generation | None, wording: Wording) -> Draft:
        return replace(self, feedback=feedback, verdict=wording.parse(_whole(feedback)))


def _whole(generation: Generation | None) -> str:
    """A complete text, without the thinking before it; else ""."""
    return spoken(generation.text) if generation is not None and generation.finish == "stop" else ""


def answer(
    ask: Ask,
    prompts: Sequence[Prompt],
    when: When = "if-judged-wrong",
    rounds: int = 1,
    *,
    wording: Wording = ENGLISH,
) -> list[tuple[Draft, ...]]:
    """The drafts for each prompt; the last one is the answer. Refines at most `rounds` times."""
    work = [[Draft(generation)] for generation in ask(RESPOND, prompts)]
    going = list(range(len(work)))
    for _ in range(rounds if when != "never" else 0):
        criticised = criticise(ask, [prompts[i] for i in going], [work[i][-1] for i in going], wording)
        for i, draft in zip(going, criticised, strict=True):
            work[i][-1] = draft
        going = [i for i in going if _is_to_refine(work[i][-1], when)]
        rows = [Critiqued(**_of(prompts[i]), response=work[i][-1].text, feedback=work[i][-1].said) for i in going]
        refined = {i: Draft(generation) for i, generation in zip(going, ask(REFINE, rows), strict=True)}
        for i in going:
            if refined[i].text:
                work[i].append(refined[i])
            else:
                work[i][-1] = replace(work[i][-1], refinement=refined[i].generation)
        going = [i for i in going if refined[i].text]
    return [tuple(drafts) for drafts in work]


def criticise(ask: Ask, prompts: Sequence[Prompt], drafts: Sequence[Draft], wording: Wording = ENGLISH) -> list[Draft]:
    """The drafts, with the model's feedback on each complete one."""
    whole = [i for i, draft in enumerate(drafts) if draft.text]
    rows = [Drafted(**_of(prompts[i]), response=drafts[i].text) for i in whole]
    feedback = dict(zip(whole, ask(CRITIQUE, rows), strict=True))
    return [draft.criticised(feedback.get(i), wording) for i, draft in enumerate(drafts)]


def _is_to_refine(draft: Draft, when: When) -> bool:
    return bool(draft.said) and (when == "always" or draft.verdict is Verdict.NOT_QUALIFIED)


def elect(
    ask: Ask,
    prompts: Sequence[Prompt],
    samples: Sequence[Sequence[Draft]],
    key: Callable[[str], str] = answer_key,
    wording: Wording = ENGLISH,
) -> list[tuple[int, Draft]]:
    """The sample that wins the vote, for each prompt: its position, and the sample itself.

    A sample that was judged to break a tie carries that feedback. Texts with the same `key` are the
    same answer.
    """
    drafts = [list(several) for several in samples]
    keys = [[key(draft.text) if draft.text else "" for draft in several] for several in drafts]
    tied = [
        (i, j)
        for i, own in enumerate(keys)
        for j, name in enumerate(own)
        if name in (first := _leading(own)) and len(first) > 1 and _is_unjudged(drafts[i][j])
    ]
    if tied:  # judged like r^ in a round: the judge sees only the prompt and this text
        rows = [Refined(**_of(prompts[i]), response="", feedback="", refinement=drafts[i][j].text) for i, j in tied]
        for (i, j), feedback in zip(tied, ask(JUDGE, rows), strict=True):
            drafts[i][j] = drafts[i][j].criticised(feedback, wording)
    elected = [vote(own, [draft.verdict for draft in several]) for own, several in zip(keys, drafts, strict=True)]
    return [(position, several[position]) for position, several in zip(elected, drafts, strict=True)]


def _is_unjudged(draft: Draft) -> bool:
    return bool(draft.text) and draft.feedback is None


def _of(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "prompt": prompt.prompt, "system": prompt.system, "history": prompt.history}


def vote(keys: Sequence[str], verdicts: Sequence[Verdict]) -> int:
    """The position that wins the vote, by point 3 above."""
    trust = {key: _trust(key, keys, verdicts) for key in _leading(keys)}
    return keys.index(max(trust, key=lambda key: trust[key]))  # max keeps the first of equals


def _leading(keys: Sequence[str]) -> list[str]:
    """The keys with the most votes, in order of first appearance. An incomplete text is "": no vote."""
    ballots = Counter(key for key in keys if key) or Counter(keys)
    return [key for key, count in ballots.items() if count == max(ballots.values())]


def _trust(key: str, keys: Sequence[str], verdicts: Sequence[Verdict]) -> tuple[int, int]:
    own = [verdict for other, verdict in zip(keys, verdicts, strict=True) if other == key]
    return own.count(Verdict.QUALIFIED), -own.count(Verdict.NOT_QUALIFIED)
