"""The annotator that works a problem out: what it shows must be right, and must not be what it criticises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worked import WorkedTeacher

from selfevo.errors import DataError
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Drafted
from selfevo.method.verdicts import Verdict
from selfevo.tasks.word_problems import WordProblems
from selfevo.teachers.base import Annotation

OWN, OTHER = "Three and three: 3 + 3 = 6.\n#### 6", "Twice three: 2 * 3 = 6.\n#### 6"


@pytest.fixture
def task(tmp_path: Path) -> WordProblems:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"question": "What is 3 + 3?", "answer": "It is 3+3=<<3+3=6>>6.\n#### 6"}))
    return WordProblems("gsm8k", path)


def annotation(task: WordProblems, response: str, *workings: str) -> Annotation:
    (problem,) = task.problems(1, 0, frozenset())
    teacher = WorkedTeacher(task, {problem.prompt.id: problem}, {problem.prompt.id: workings})
    [[(_, annotation)]] = teacher.annotate([Drafted(problem.prompt.id, problem.prompt.prompt, response)])
    return annotation


def test_a_wrong_response_is_shown_a_working_and_refined_to_it(task: WordProblems) -> None:
    written = annotation(task, "#### 7", OWN, OTHER)
    assert "Three and three" in written.feedback
    assert written.refinement == OWN
    assert parse_verdict(written.feedback) is Verdict.NOT_QUALIFIED


def test_a_right_response_stands_and_is_shown_another_working_than_itself(task: WordProblems) -> None:
    written = annotation(task, OWN, OWN, OTHER)
    assert "Twice three" in written.feedback
    assert written.refinement == OWN
    assert parse_verdict(written.feedback) is Verdict.QUALIFIED


def test_where_there_is_no_other_working_the_gold_solution_stands_in(task: WordProblems) -> None:
    assert "It is 3+3=6." in annotation(task, OWN, OWN).feedback


def test_a_working_that_does_not_end_in_the_answer_is_refused(task: WordProblems) -> None:
    with pytest.raises(DataError, match="does not end in its answer 6: #### 8"):
        annotation(task, "#### 7", "#### 8")


def test_a_prompt_whose_answer_it_does_not_hold_is_refused(task: WordProblems) -> None:
    teacher = WorkedTeacher(task, {}, {})
    with pytest.raises(DataError, match="holds no answer"):
        list(teacher.annotate([Drafted("0", "Why is the sky blue?", "Rayleigh")]))
