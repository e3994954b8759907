"""The fakes that are public: a task that is a table, an annotator that is a function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.errors import DataError
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Drafted, Prompt
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import AnnotatedTask
from selfevo.tasks.scripted import ScriptedTask
from selfevo.teachers.base import Annotation, Teacher
from selfevo.teachers.oracle import OracleTeacher
from selfevo.teachers.scripted import ScriptedTeacher

TASK: AnnotatedTask = ScriptedTask({"Capital of France?": "Paris", "Capital of Peru?": "Lima", "2 + 2?": "4"})


@given(st.integers(0, 100), st.integers(0, 3))
def test_it_draws_each_problem_once_and_the_same_ones_for_the_same_seed(seed: int, count: int) -> None:
    drawn = TASK.problems(count, seed, frozenset())
    assert len({problem.prompt.id for problem in drawn}) == count
    assert drawn == TASK.problems(count, seed, frozenset())


def test_it_has_no_more_problems_than_its_table() -> None:
    used = frozenset({Prompt.of("2 + 2?").id})
    assert len(TASK.problems(2, 0, used)) == 2
    with pytest.raises(DataError, match="scripted has 2 unused problems, not 3"):
        TASK.problems(3, 0, used)


@given(st.text())
def test_an_annotator_can_be_built_on_it(response: str) -> None:
    problems = TASK.problems(3, 0, frozenset())
    prompt = problems[0].prompt
    teacher = OracleTeacher(TASK, {prompt.id: problems[0]})
    [[(position, annotation)]] = teacher.annotate([Drafted(prompt.id, prompt.prompt, response)])
    right = TASK.is_correct(problems[0], response)
    assert position == 0
    assert parse_verdict(annotation.feedback) is (Verdict.QUALIFIED if right else Verdict.NOT_QUALIFIED)
    assert TASK.is_correct(problems[0], annotation.refinement)


def test_the_scripted_annotator_says_what_it_is_told_to_and_remembers() -> None:
    scripted = ScriptedTeacher(lambda prompt, response: (f"{response}? No.", prompt.upper()))
    teacher: Teacher = scripted
    assert list(teacher.annotate([Drafted("0", "why", "because")])) == [[(0, Annotation("because? No.", "WHY"))]]
    assert scripted.calls == [("why", "because")]
