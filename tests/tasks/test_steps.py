"""Chains of small results: gold answers are right, and the annotator agrees with the checker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config.task import TaskConfig
from selfevo.errors import ConfigError
from selfevo.method.prompts import parse_verdict
from selfevo.method.verdicts import Verdict
from selfevo.tasks import load_task
from selfevo.tasks.base import Problem
from selfevo.tasks.steps import KINDS, StepsTask, chain

TASK = StepsTask("demo", tuple(KINDS))
PROBLEMS = TASK.problems(12, 5, frozenset())


def gold(problem: Problem) -> list[str]:
    """The list of results, worked out by another way than the task's."""
    head, _, rest = problem.prompt.prompt.partition(": ")
    items = rest.split()
    match problem.kind:
        case "running-totals":
            return [str(sum(map(int, items[: i + 1]))) for i in range(1, len(items))]
        case _:
            return [str(int(item) + int(head.split()[1])) for item in items]


@given(st.integers(0, 10_000))
def test_gold_answers_are_right(seed: int) -> None:
    for problem in TASK.problems(3, seed, frozenset()):
        assert problem.answer == " ".join(gold(problem))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_wrong_step_is_named_and_counted(problem: Problem) -> None:
    right = problem.answer.split()

    def comparison(items: list[str]) -> list[str]:
        line = TASK.explain(problem, " ".join(items)).split("\n")[-2]
        return line.removeprefix("Compare: ").split(", ")

    assert comparison(right) == [f"{item} {item} same 0 wrong" for item in right]
    for i in range(len(right)):
        named = comparison([*right[:i], "999", *right[i + 1 :]])
        assert named[i] == f"{right[i]} 999 different 1 wrong"
        assert [pair.endswith(" 1 wrong") for pair in named] == [j >= i for j in range(len(right))]
    assert comparison(["999"] * len(right))[-1].endswith(f"different {len(right)} wrong")
    assert comparison(right[:-1])[-1] == f"{right[-1]} nothing different 1 wrong"
    assert comparison([*right, "999"])[-1] == "nothing 999 different 1 wrong"


@given(st.sampled_from(PROBLEMS), st.data())
def test_the_annotators_verdict_is_that_of_the_checker(problem: Problem, data: st.DataObject) -> None:
    right = problem.answer.split()
    items = data.draw(
        st.one_of(st.just(right), st.permutations(right), st.lists(st.sampled_from([*right, "0", "07", "3.5", "-1"])))
    )
    around = st.sampled_from(["", "The answer is ", "Results:\n", ".", "\n", " of 9", "!", "%", "\u0663"])
    written = data.draw(around) + data.draw(st.sampled_from([" ", ", ", "\n", "+"])).join(items) + data.draw(around)
    response = data.draw(st.one_of(st.just(written), st.text()))
    correct = TASK.is_correct(problem, response)
    assert parse_verdict(TASK.explain(problem, response)) is (Verdict.QUALIFIED if correct else Verdict.NOT_QUALIFIED)


@pytest.mark.parametrize("problem", PROBLEMS[:3])
@pytest.mark.parametrize("dress", ["{}", "{}.", "Here it is:\n{}\n", "Step 1 of 9:\n{}", "**{}**\nHope this helps!"])
def test_a_right_answer_in_any_dress_is_right(problem: Problem, dress: str) -> None:
    assert TASK.is_correct(problem, dress.format(problem.answer))
    assert TASK.is_correct(problem, dress.format(problem.answer.replace(" ", ", ")))


@pytest.mark.parametrize("problem", PROBLEMS[:3])
def test_a_wrong_answer_is_wrong(problem: Problem) -> None:
    right = problem.answer.split()
    for wrong in ("", "no idea", " ".join(right[:-1]), " ".join([*right, right[-1]]), problem.prompt.prompt):
        assert not TASK.is_correct(problem, wrong)
    assert TASK.is_correct(problem, TASK.solution(problem))


@given(st.text())
def test_reading_an_answer_never_fails(response: str) -> None:
    assert all(number == str(int(number)) for number in chain(response))


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
    with pytest.raises(ConfigError, match="unknown task 'tie-knots'; use one of add-to-each"):
        StepsTask("x", ("tie-knots",))
