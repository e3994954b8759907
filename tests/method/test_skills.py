"""What the model is shown for each skill, and the record that its text becomes."""

from __future__ import annotations

from typing import Any

import pytest

from selfevo.method.prompts import CRITIQUE as ASK_CRITIQUE
from selfevo.method.prompts import REFINE as ASK_REFINE
from selfevo.method.records import Critiqued, Drafted, Judged, Prompt, Refined
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill

P = Prompt("7", "p")
D = Drafted("7", "p", "r")
C = Critiqued("7", "p", "r", "f")
R = Refined("7", "p", "r", "f", "r^")
J = Judged("7", "p", "r", "f", "r^", "v")


@pytest.mark.parametrize(
    ("skill", "name", "row", "turns", "text", "built"),
    [
        (RESPOND, "respond", P, ("p",), "r", D),
        (CRITIQUE, "critique", D, ("p", "r", ASK_CRITIQUE), "f", C),
        (REFINE, "refine", C, ("p", "r", ASK_CRITIQUE, "f", ASK_REFINE), "r^", R),
        # The second self-feedback is given on r^ as if it were a first answer.
        (JUDGE, "judge", R, ("p", "r^", ASK_CRITIQUE), "v", J),
    ],
)
def test_a_skill_sees_its_turns_and_adds_its_field(
    skill: Skill[Any, Any], name: str, row: Prompt, turns: tuple[str, ...], text: str, built: Prompt
) -> None:
    assert skill.name == name
    assert skill.turns(row) == turns
    assert skill.build(row, text) == built
    assert type(skill.build(row, text)) is type(built)


def test_the_judge_is_blind_to_the_first_draft_and_its_critique() -> None:
    other = Refined("7", "p", "another draft", "another critique", "r^")
    assert JUDGE.turns(other) == JUDGE.turns(R)


def test_criticising_a_draft_and_judging_a_refinement_are_one_question() -> None:
    """Else the skill that D_meta teaches is not the one that filters."""
    assert CRITIQUE.turns(Drafted("7", "p", "same")) == JUDGE.turns(Refined("7", "p", "r", "f", "same"))
