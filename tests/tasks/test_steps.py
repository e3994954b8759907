"""Counting, adding and riding a lift: gold answers are right, and the annotator agrees with the checker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config import TaskConfig
from selfevo.errors import ConfigError
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Problem
from selfevo.records import Prompt
from selfevo.tasks import load_task
from selfevo.tasks.steps import KINDS, StepsTask, last_number

TASK = StepsTask("demo", tuple(KINDS))
PROBLEMS = TASK.problems(12, 5, frozenset())


@pytest.mark.parametrize(
    ("kind", "question", "steps", "answer"),
    [
        ("count-letters", "Count the letter a in: a b a c a a", "a1 b a2 c a3 a4", "4"),
        ("count-letters", "Count the letter p in: a b", "a b", "0"),
        ("add-digits", "Add: 4 9 2 8", "4+9=13 13+2=15 15+8=23", "23"),
        ("ride-lift", "A lift on floor 3 goes: up up down. Which floor now?", "up4 up5 down4", "4"),
    ],
)
def test_steps_are_worked_out(kind: str, question: str, steps: str, answer: str) -> None:
    assert KINDS[kind].steps(question) == (steps, answer)
    problem = Problem(Prompt.of(question), answer, kind)
    assert TASK.explain(problem, "I say 77.") == (
        f"Steps: {steps}\nThe result is {answer}, the answer says 77.\nVerdict: not qualified"
    )


@given(st.integers(0, 10_000))
def test_gold_answers_are_right(seed: int) -> None:
    """Worked out here by another way than the steps."""
    for problem in TASK.problems(3, seed, frozenset()):
        question = problem.prompt.prompt
        match problem.kind:
            case "count-letters":
                letter, items = question.removeprefix("Count the letter ").split(" in: ")
                expected = items.split().count(letter)
            case "add-digits":
                expected = sum(int(digit) for digit in question if digit.isdigit())
            case _:
                expected = int(question.split()[4]) + question.count(" up") - question.count(" down")
                assert 0 <= expected <= 9
        assert problem.answer == str(expected)


@given(st.sampled_from(PROBLEMS), st.data())
def test_the_annotators_verdict_is_that_of_the_checker(problem: Problem, data: st.DataObject) -> None:
    number = data.draw(st.sampled_from([problem.answer, "0", "007", "12", "3.5", ""]))
    around = st.sampled_from(["", "The answer is ", "1 + 1 = ", ".", "\n", " of 9", "!", "%"])
    response = data.draw(st.one_of(st.text(), st.just(data.draw(around) + number + data.draw(around))))
    right = TASK.is_correct(problem, response)
    assert parse_verdict(TASK.explain(problem, response)) is (Verdict.QUALIFIED if right else Verdict.NOT_QUALIFIED)


@given(st.sampled_from(PROBLEMS))
def test_the_gold_solution_is_right(problem: Problem) -> None:
    assert TASK.is_correct(problem, TASK.solution(problem))
    assert not TASK.is_correct(problem, str(int(problem.answer) + 1))
    assert not TASK.is_correct(problem, "")


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("7", "7"),
        ("The answer is 7.", "7"),
        ("3 + 4 = 7", "7"),
        ("07", "7"),
        ("7.0", "7"),
        ("**7**", "7"),
        ("first 9, then 7\n", "7"),
        ("", None),
        ("seven", None),
        ("12345678901234567890", None),
    ],
)
def test_the_last_number_is_the_answer(response: str, number: str | None) -> None:
    assert last_number(response) == number


@given(st.text())
def test_reading_an_answer_never_fails(response: str) -> None:
    number = last_number(response)
    assert number is None or number == str(int(number))


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30))
def test_draws_that_exclude_each_other_do_not_overlap(seed: int, first: int, second: int) -> None:
    a = TASK.problems(first, seed, frozenset())
    b = TASK.problems(second, seed, frozenset(p.prompt.id for p in a))
    ids = [p.prompt.id for p in a + b]
    assert len(ids) == len(set(ids)) == first + second


def test_draws_are_the_same_for_the_same_arguments_and_differ_by_seed() -> None:
    assert TASK.problems(20, 3, frozenset()) == TASK.problems(20, 3, frozenset())
    assert TASK.problems(20, 3, frozenset()) != TASK.problems(20, 4, frozenset())
    assert TASK.problems(20, 3, frozenset())[:5] == TASK.problems(5, 3, frozenset())


@pytest.mark.parametrize(("name", "kinds"), [("demo", set(KINDS)), *((kind, {kind}) for kind in KINDS)])
def test_a_task_is_loaded_by_name(name: str, kinds: set[str]) -> None:
    task = load_task(TaskConfig(name=name))
    assert task.name == name
    assert {p.kind for p in task.problems(6, 0, frozenset())} == kinds


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown task 'tie-knots'; there are count-letters"):
        StepsTask("x", ("tie-knots",))
