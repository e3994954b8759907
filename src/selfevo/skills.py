"""What the model can do: respond, critique, refine, judge. Each is a conversation to continue and a record to build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Generic, TypeVar

from selfevo import prompts
from selfevo.prompts import Turns
from selfevo.records import Critiqued, Drafted, Judged, Prompt, Refined

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(frozen=True, slots=True)
class Skill(Generic[In, Out]):
    """`turns(row)` is what the model sees; `record` is the type of the row with the model's text as its last field.

    `known(row)` is the answer where the very same conversation was already continued: the name of the skill that did,
    and its text. It serves greedy decoding only, where asking again cannot say anything else.
    """

    name: str
    turns: Callable[[In], Turns]
    record: type[Out]
    known: Callable[[In], tuple[str, str] | None] = lambda row: None

    def build(self, row: In, text: str) -> Out:
        """The row one field longer."""
        record: Callable[..., Out] = self.record
        return record(*astuple(row), text)


RESPOND: Skill[Prompt, Drafted] = Skill("respond", lambda row: prompts.respond(row.prompt), Drafted)
CRITIQUE: Skill[Drafted, Critiqued] = Skill(
    "critique", lambda row: prompts.critique(row.prompt, row.response), Critiqued
)
REFINE: Skill[Critiqued, Refined] = Skill(
    "refine", lambda row: prompts.refine(row.prompt, row.response, row.feedback), Refined
)
# The second self-feedback sees only (p, r^), never the first draft or its critique: it must stand on its own.
JUDGE: Skill[Refined, Judged] = Skill(
    "judge",
    lambda row: prompts.critique(row.prompt, row.refinement),
    Judged,
    lambda row: (CRITIQUE.name, row.feedback) if row.refinement == row.response else None,
)
