"""Filters decide which judged rows become training data. Several filters run one after the other.

A filter starts once per round, when all rows are judged. It may then ask the round's model again.
`start` returns a function. That function is called, in order, for each row that passed the earlier
filters. It returns the reason to drop the row, or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from selfevo.method.answer_extraction import answer_key
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Generation
from selfevo.method.records import Judged, Prompt, Refined, Turns, as_row, from_row
from selfevo.method.rows import Rows
from selfevo.method.skills import JUDGE, RESPOND, Skill
from selfevo.method.thinking import spoken
from selfevo.method.verdicts import Verdict

Reason = Callable[[Judged], str | None]
Share = Annotated[float, Field(ge=0, le=1)]


class Sampler(Protocol):
    """The model of the round, and the words that it is asked with. A filter can ask it again."""

    @property
    def wording(self) -> Wording: ...

    def sample(self, skill: Skill[Any, Any], rows: Rows[Any], times: int, temperature: float) -> list[list[Generation]]:
        """`times` sampled texts for each row."""
        ...


class Filter(Protocol):
    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason: ...


class _Kind(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ByVerdict(_Kind):
    """The paper's filter: keep (p, r^) only where the second self-feedback says qualified."""

    kind: Literal["verdict"] = "verdict"

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        return partial(by_verdict, wording=sampler.wording)


class ByVotes(_Kind):
    """Samples several feedbacks on r^. Each verdict is a vote; only "qualified" is a vote for r^."""

    kind: Literal["verdict-votes"] = "verdict-votes"
    votes: int = Field(5, ge=1, description="feedbacks on each refinement")
    share: Share = Field(0.5, description="keep a row if more than this share of the feedbacks says qualified")
    temperature: float = Field(0.7, gt=0, description="sampling temperature")

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        refined = [from_row(Refined, as_row(row)) for row in rows]
        given = sampler.sample(JUDGE, refined, self.votes, self.temperature)
        yes = {
            row.id: sum(g.finish == "stop" and sampler.wording.parse(g.text) is Verdict.QUALIFIED for g in generations)
            for row, generations in zip(refined, given, strict=True)
        }

        def reason(row: Judged) -> str | None:
            return None if yes[row.id] > self.share * self.votes else f"{yes[row.id]} of {self.votes} votes"

        return reason


class ByAgreement(_Kind):
    """Samples several responses to p. Keeps r^ if enough of them give its answer (self-consistency)."""

    kind: Literal["answer-agreement"] = "answer-agreement"
    samples: int = Field(5, ge=1, description="responses to each prompt")
    share: Share = Field(0.5, description="keep a row if more than this share of the responses gives the answer of r^")
    temperature: float = Field(0.7, gt=0, description="sampling temperature")

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        prompts = [from_row(Prompt, as_row(row)) for row in rows]
        given = sampler.sample(RESPOND, prompts, self.samples, self.temperature)
        answers = {
            prompt.id: Counter(answer_key(g.text) for g in generations if g.finish == "stop")
            for prompt, generations in zip(prompts, given, strict=True)
        }

        def reason(row: Judged) -> str | None:
            agreeing = answers[row.id][answer_key(row.refinement)]
            return None if agreeing > self.share * self.samples else f"{agreeing} of {self.samples} samples agree"

        return reason


class KeepAll(_Kind):
    """Keeps every row, for ablations."""

    kind: Literal["none"] = "none"

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        return lambda row: None


class MaxPerPrompt(_Kind):
    """Keeps the first `count` rows of each prompt. Useful with samples_per_prompt above 1."""

    kind: Literal["max-per-prompt"] = "max-per-prompt"
    count: int = Field(1, ge=1, description="most rows kept per prompt")

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        seen = Counter[Turns]()

        def reason(row: Judged) -> str | None:
            seen[row.conversation] += 1
            return None if seen[row.conversation] <= self.count else f"more than {self.count} of its prompt"

        return reason


class Length(_Kind):
    """Bounds on the length of r^."""

    kind: Literal["length"] = "length"
    min_characters: int = Field(1, ge=0, description="shortest r^ that is kept")
    max_characters: int = Field(4000, ge=1, description="longest r^ that is kept")

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        def reason(row: Judged) -> str | None:
            length = len(spoken(row.refinement))
            if length < self.min_characters:
                return f"shorter than {self.min_characters} characters"
            return f"longer than {self.max_characters} characters" if length > self.max_characters else None

        return reason


class Distinct(_Kind):
    """Keeps each (p, r^) once per round. Case and spacing of r^ do not matter."""

    kind: Literal["distinct"] = "distinct"

    def start(self, sampler: Sampler, rows: Rows[Judged]) -> Reason:
        seen: set[Turns] = set()

        def reason(row: Judged) -> str | None:
            content = (*row.conversation, " ".join(spoken(row.refinement).casefold().split()))
            if content in seen:
                return "duplicate"
            seen.add(content)
            return None

        return reason


BY_FORM = (MaxPerPrompt, Length, Distinct)  # the other filters judge the content of a row


def by_verdict(row: Judged, wording: Wording = ENGLISH) -> str | None:
    verdict = wording.parse(row.judgement)
    if verdict is Verdict.QUALIFIED:
        return None
    return "verdict not qualified" if verdict is Verdict.NOT_QUALIFIED else "verdict unreadable"


def apply(filters: Sequence[Filter], sampler: Sampler, rows: Rows[Judged]) -> Reason:
    """All of `filters` as one. The reason is that of the first filter that drops the row."""
    reasons = [filter.start(sampler, rows) for filter in filters]
    return lambda row: next((found for reason in reasons if (found := reason(row)) is not None), None)
