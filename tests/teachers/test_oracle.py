"""The annotator writes D_meta: its labels must be right, and a right answer must not be taught to change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.errors import DataError
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Problem
from selfevo.records import Prompt
from selfevo.tasks.steps import KINDS, StepsTask
from selfevo.teachers.oracle import OracleTeacher

TASK = StepsTask("steps", tuple(KINDS))
PROBLEMS = TASK.problems(9, 0, frozenset())
TEACHER = OracleTeacher(TASK, PROBLEMS)


@pytest.mark.parametrize("problem", PROBLEMS[:3])
def test_a_wrong_response_gets_a_no_and_the_gold_answer(problem: Problem) -> None:
    feedback, refinement = TEACHER.annotate(problem.prompt, "no idea")
    assert parse_verdict(feedback) is Verdict.NOT_QUALIFIED
    assert refinement == problem.answer


@pytest.mark.parametrize("dress", ["{}", "Sorted:\n{}", "{}."])
def test_a_right_response_gets_a_yes_and_stands_word_for_word(dress: str) -> None:
    problem = PROBLEMS[0]
    response = dress.format(problem.answer)
    feedback, refinement = TEACHER.annotate(problem.prompt, response)
    assert parse_verdict(feedback) is Verdict.QUALIFIED
    assert refinement == response


@given(st.sampled_from(PROBLEMS), st.text())
def test_every_refinement_is_right_and_every_verdict_readable(problem: Problem, response: str) -> None:
    feedback, refinement = TEACHER.annotate(problem.prompt, response)
    assert TASK.is_correct(problem, refinement)
    assert parse_verdict(feedback) is not Verdict.UNKNOWN


def test_a_solved_problem_is_a_trajectory_that_was_right_at_once() -> None:
    row = TEACHER.solved(PROBLEMS[1])
    assert (row.id, row.prompt) == (PROBLEMS[1].prompt.id, PROBLEMS[1].prompt.prompt)
    assert row.response == row.refinement == PROBLEMS[1].answer
    assert parse_verdict(row.feedback) is Verdict.QUALIFIED


def test_a_prompt_whose_answer_it_does_not_hold_is_refused() -> None:
    with pytest.raises(DataError, match=r"holds no answer to prompt .*Why is the sky blue"):
        TEACHER.annotate(Prompt.of("Why is the sky blue?"), "Rayleigh")
