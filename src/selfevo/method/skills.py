"""The skills of the model: respond, critique, refine, judge.

A skill builds the conversation that the model continues, and the record with the model's text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from selfevo.method import prompts
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Request
from selfevo.method.records import Critiqued, Drafted, Judged, Prompt, Refined, Turns, extended
from selfevo.method.thinking import heard

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(frozen=True, slots=True)
class Skill(Generic[In, Out]):
    """`turns(row, wording)` is what the model sees. `record` has one more field, for the model's text."""

    name: str
    asked: Callable[[In, Wording], Turns]
    record: type[Out]

    def turns(self, row: In, wording: Wording = ENGLISH) -> Turns:
        return self.asked(row, wording)

    def build(self, row: In, text: str) -> Out:
        """The row with `text` as its new field."""
        return extended(self.record, row, text)

    def request(self, row: In, seed: int, wording: Wording = ENGLISH) -> Request:
        """What an engine is asked with for `row`."""
        return Request(heard(self.turns(row, wording)), seed, row.system, opening=len(row.history) + 1)

    @property
    def column(self) -> str:
        """The field that holds the model's text."""
        return [field.name for field in fields(self.record) if not field.kw_only][-1]


RESPOND: Skill[Prompt, Drafted] = Skill("respond", lambda row, _: prompts.respond(row), Drafted)
CRITIQUE: Skill[Drafted, Critiqued] = Skill(
    "critique", lambda row, wording: prompts.critique(row, row.response, wording), Critiqued
)
REFINE: Skill[Critiqued, Refined] = Skill(
    "refine", lambda row, wording: prompts.refine(row, row.response, row.feedback, wording), Refined
)
# The second self-feedback sees only (p, r^), never the first draft or its critique: it must stand on its own.
JUDGE: Skill[Refined, Judged] = Skill(
    "judge", lambda row, wording: prompts.critique(row, row.refinement, wording), Judged
)

SKILLS: tuple[Skill[Any, Any], ...] = (RESPOND, CRITIQUE, REFINE, JUDGE)


def continued(skill: Skill[In, Out], row: In) -> tuple[Skill[Any, Any], str] | None:
    """An earlier skill that continued the same conversation, and the model's text. Else None.

    This happens when a refinement repeats the response: judging it is the same request as the
    critique before. Greedy decoding gives the same text again.
    """
    turns = heard(skill.turns(row))
    for earlier in SKILLS[: SKILLS.index(skill)]:
        if heard(earlier.turns(row)) == turns:
            return earlier, getattr(row, earlier.column)
    return None
