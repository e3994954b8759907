"""What the model can do: respond, critique, refine, judge. Each is a conversation to continue and a record to build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from selfevo.method import prompts
from selfevo.method.records import Critiqued, Drafted, Judged, Prompt, Refined, Turns, extended

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(frozen=True, slots=True)
class Skill(Generic[In, Out]):
    """`turns(row)` is what the model sees; `record` is the type of the row with the model's text as its last field."""

    name: str
    turns: Callable[[In], Turns]
    record: type[Out]

    def build(self, row: In, text: str) -> Out:
        """The row one field longer."""
        return extended(self.record, row, text)

    @property
    def column(self) -> str:
        """The field that holds the model's text."""
        return [field.name for field in fields(self.record) if not field.kw_only][-1]


RESPOND: Skill[Prompt, Drafted] = Skill("respond", prompts.respond, Drafted)
CRITIQUE: Skill[Drafted, Critiqued] = Skill("critique", lambda row: prompts.critique(row, row.response), Critiqued)
REFINE: Skill[Critiqued, Refined] = Skill(
    "refine", lambda row: prompts.refine(row, row.response, row.feedback), Refined
)
# The second self-feedback sees only (p, r^), never the first draft or its critique: it must stand on its own.
JUDGE: Skill[Refined, Judged] = Skill("judge", lambda row: prompts.critique(row, row.refinement), Judged)

SKILLS: tuple[Skill[Any, Any], ...] = (RESPOND, CRITIQUE, REFINE, JUDGE)


def continued(skill: Skill[In, Out], row: In) -> tuple[Skill[Any, Any], str] | None:
    """The earlier skill that was asked with the very same conversation, and what the model wrote then.

    A refinement that repeats the response is such a case: it is judged with the words that the response was criticised
    with. Greedy decoding, asked again, cannot say anything else.
    """
    turns = skill.turns(row)
    for earlier in SKILLS[: SKILLS.index(skill)]:
        if earlier.turns(row) == turns:
            return earlier, getattr(row, earlier.column)
    return None
