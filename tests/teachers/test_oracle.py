"""The annotator writes D_meta: its labels must be right, and a right answer must not be taught to change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.errors import DataError
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Drafted
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.steps import KINDS, StepsTask
from selfevo.teachers.base import Annotation
from selfevo.teachers.oracle import OracleTeacher

TASK = StepsTask("steps", tuple(KINDS))
PROBLEMS = TASK.problems(9, 0, frozenset())
TEACHER = OracleTeacher(TASK, {problem.prompt.id: problem for problem in PROBLEMS})


def draft(problem: Problem, response: str) -> Drafted:
    return Drafted(problem.prompt.id, problem.prompt.prompt, response)


def annotation(problem: Problem, response: str) -> Annotation:
    [[(position, annotation)]] = TEACHER.annotate([draft(problem, response)])
    assert position == 0
    return annotation


@pytest.mark.parametrize("problem", PROBLEMS[:3])
def test_a_wrong_response_gets_a_no_and_the_gold_answer(problem: Problem) -> None:
    written = annotation(problem, "no idea")
    assert parse_verdict(written.feedback) is Verdict.NOT_QUALIFIED
    assert written.refinement == problem.answer
    assert written.reason == ""


@pytest.mark.parametrize("dress", ["{}", "Sorted:\n{}", "{}."])
def test_a_right_response_gets_a_yes_and_stands_word_for_word(dress: str) -> None:
    response = dress.format(PROBLEMS[0].answer)
    written = annotation(PROBLEMS[0], response)
    assert parse_verdict(written.feedback) is Verdict.QUALIFIED
    assert written.refinement == response


@given(st.sampled_from(PROBLEMS), st.text())
def test_every_refinement_is_right_and_every_verdict_readable(problem: Problem, response: str) -> None:
    written = annotation(problem, response)
    assert TASK.is_correct(problem, written.refinement)
    assert parse_verdict(written.feedback) is not Verdict.UNKNOWN


def test_many_responses_get_one_annotation_each() -> None:
    drafts = [draft(problem, str(i)) for i in range(100) for problem in PROBLEMS]
    positions = [position for batch in TEACHER.annotate(drafts) for position, _ in batch]
    assert positions == list(range(len(drafts)))


def test_a_response_is_known_by_everything_its_annotation_depends_on() -> None:
    keys = {TEACHER.key(draft(problem, response)) for problem in PROBLEMS for response in ("a", "b")}
    assert len(keys) == 2 * len(PROBLEMS)


def test_a_prompt_whose_answer_it_does_not_hold_is_refused() -> None:
    with pytest.raises(DataError, match=r"holds no answer to prompt .*Why is the sky blue"):
        list(TEACHER.annotate([Drafted("0", "Why is the sky blue?", "Rayleigh")]))
