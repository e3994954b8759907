"""What the model can do: respond, critique, refine, judge. Each is a conversation to continue and a record to build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from selfevo import prompts
from selfevo.prompts import Turns
from selfevo.records import Critiqued, Drafted, Judged, Prompt, Refined

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(frozen=True, slots=True)
class Skill(Generic[In, Out]):
    """`turns(row)` is what the model sees; `build(row, text)` is the row one field longer.

    `known(row)` is the answer where the very same conversation was already continued: the name of the skill that did,
    and its text. It serves greedy decoding only, where asking again cannot say anything else.
    """

    name: str
    turns: Callable[[In], Turns]
    build: Callable[[In, str], Out]
    known: Callable[[In], tuple[str, str] | None] = lambda row: None


RESPOND: Skill[Prompt, Drafted] = Skill(
    "respond",
    lambda row: prompts.respond(row.prompt),
    lambda row, text: Drafted(row.id, row.prompt, text),
)
CRITIQUE: Skill[Drafted, Critiqued] = Skill(
    "critique",
    lambda row: prompts.critique(row.prompt, row.response),
    lambda row, text: Critiqued(row.id, row.prompt, row.response, text),
)
REFINE: Skill[Critiqued, Refined] = Skill(
    "refine",
    lambda row: prompts.refine(row.prompt, row.response, row.feedback),
    lambda row, text: Refined(row.id, row.prompt, row.response, row.feedback, text),
)
# The second self-feedback sees only (p, r^), never the first draft or its critique: it must stand on its own.
JUDGE: Skill[Refined, Judged] = Skill(
    "judge",
    lambda row: prompts.critique(row.prompt, row.refinement),
    lambda row, text: Judged(row.id, row.prompt, row.response, row.feedback, row.refinement, text),
    lambda row: (CRITIQUE.name, row.feedback) if row.refinement == row.response else None,
)
