"""Sorting problems: right and wrong are told apart, the annotator agrees with the checker, and draws do not overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config import TaskConfig
from selfevo.errors import ConfigError, DataError
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Problem
from selfevo.records import Prompt
from selfevo.tasks import load_task
from selfevo.tasks.sorting import KINDS, SortingTask, answer_items

TASK = SortingTask("sorting", tuple(KINDS))
PROBLEMS = TASK.problems(12, 5, frozenset())
NUMBERS = Problem(Prompt.of("Sort these numbers: 31 12 45 28 60 17"), "12 17 28 31 45 60", "sort-numbers")
NOISE = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def responses(draw: st.DrawFn, problem: Problem) -> str:
    """Anything from the right answer to noise: items of the problem and others, in some order, in some dress."""
    asked = problem.answer.split()
    items = draw(
        st.one_of(
            st.just(asked),
            st.permutations(asked),
            st.lists(st.sampled_from([*asked, *KINDS[problem.kind].items, "?", "yes"]), max_size=12),
            st.lists(NOISE, max_size=3),
        )
    )
    if items and draw(st.booleans()):
        items = [item for i, item in enumerate(items) if i != draw(st.integers(0, len(items) - 1))]
    separator = draw(st.sampled_from([" ", ", ", ",", "; ", " < ", "\n", "  ", "."]))
    before = draw(st.sampled_from(["", "Here is the list:\n", "12 13\n\n", "["]))
    after = draw(st.sampled_from(["", ".", "\n\n", "]", "!", " "]))
    text = before + separator.join(items) + after
    return text.upper() if draw(st.booleans()) else text


@given(st.data())
def test_the_annotators_verdict_is_that_of_the_checker(data: st.DataObject) -> None:
    problem = data.draw(st.sampled_from(PROBLEMS))
    response = data.draw(st.one_of(responses(problem), st.text()))
    right = TASK.is_correct(problem, response)
    assert parse_verdict(TASK.explain(problem, response)) is (Verdict.QUALIFIED if right else Verdict.NOT_QUALIFIED)


@pytest.mark.parametrize(
    "response",
    [
        "12 17 28 31 45 60",
        "12, 17, 28, 31, 45, 60.",
        "[12, 17, 28, 31, 45, 60]",
        "12 < 17 < 28 < 31 < 45 < 60",
        "Here are the numbers:\n\n12 17 28 31 45 60\n",
    ],
)
def test_a_right_answer_in_any_dress_is_right(response: str) -> None:
    assert TASK.is_correct(NUMBERS, response)


@pytest.mark.parametrize(
    ("response", "named"),
    [
        ("", "12 is missing"),
        ("31 12 45 28 60 17", "12 comes before 31"),
        ("12 17 28 31 45", "60 is missing"),
        ("12 17 28 31 45 60 61", "61 is not in the list"),
        ("12 12 17 28 31 45 60", "12 is repeated"),
        ("60 45 31 28 17 12", "45 comes before 60"),
        ("12 17 28 31 45 60\nHope this helps!", "hope is not in the list"),
        ("12 17 28 31 45 60 (sorted by me)", "sorted is not in the list"),
        ("121728314560", "121728314560 is not in the list"),
    ],
)
def test_a_wrong_answer_is_wrong_and_its_error_is_named(response: str, named: str) -> None:
    assert not TASK.is_correct(NUMBERS, response)
    feedback = TASK.explain(NUMBERS, response)
    errors = next(line for line in feedback.split("\n") if line.startswith("Errors: "))
    assert named in errors or errors.count(";") == 2, "what is not named is beyond the third error"
    assert "none" not in errors


@given(st.sampled_from(PROBLEMS))
def test_the_gold_solution_is_right_and_the_question_itself_is_not(problem: Problem) -> None:
    assert TASK.is_correct(problem, TASK.solution(problem))
    unsorted = problem.prompt.prompt.partition(": ")[2]
    assert TASK.is_correct(problem, unsorted) == (unsorted == problem.answer)


def test_feedback_walks_the_question_and_then_the_answer() -> None:
    assert TASK.explain(NUMBERS, "17 12 28 31 45") == (
        "Found: 31 yes 12 yes 45 yes 28 yes 60 no 17 yes\n"
        "Order: 17 > 12 < 28 < 31 < 45\n"
        "Errors: 60 is missing; 12 comes before 17\n"
        "Verdict: not qualified"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gold_answers_are_in_the_order_of_their_kind(kind: str) -> None:
    for problem in SortingTask(kind, (kind,)).problems(30, 0, frozenset()):
        items = problem.answer.split()
        by = {"sort-letters": str, "sort-numbers": int, "sort-number-words": KINDS[kind].items.index}[kind]
        assert items == sorted(items, key=by)
        assert sorted(items) == sorted(problem.prompt.prompt.partition(": ")[2].split())
        assert KINDS[kind].shortest <= len(items) <= KINDS[kind].longest


def test_number_words_stand_in_the_order_of_their_numbers() -> None:
    words = KINDS["sort-number-words"].items
    assert words[:3] == ("one", "two", "three")
    assert words[18:] == ("nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


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


def test_published_evaluation_sets_stay_what_they_are() -> None:
    (problem,) = SortingTask("sort-numbers", ("sort-numbers",)).problems(1, 1, frozenset())
    assert (problem.prompt.prompt, problem.answer) == ("Sort these numbers: 82 18 42 25 73 67", "18 25 42 67 73 82")


def test_kinds_take_turns() -> None:
    assert [p.kind for p in PROBLEMS[:4]] == [*KINDS, next(iter(KINDS))]


def test_a_task_that_runs_dry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfevo.tasks import sorting

    small = sorting.Kind("Sort these letters:", ("a", "b"), 2, 2)
    monkeypatch.setitem(sorting.KINDS, "sort-letters", small)
    task = SortingTask("sort-letters", ("sort-letters",))
    assert len(task.problems(2, 0, frozenset())) == 2
    with pytest.raises(DataError, match=r"sort-letters does not have 3 problems .* ask for fewer"):
        task.problems(3, 0, frozenset())


@given(st.text())
def test_reading_an_answer_never_fails(response: str) -> None:
    assert all(item and item == item.strip() for item in answer_items(response))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_loaded_by_name(name: str) -> None:
    task = load_task(TaskConfig(name=name))
    assert task.name == name
    assert {p.kind for p in task.problems(6, 0, frozenset())} == {name}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sort-leters", "did you mean 'sort-letters'?"),
        ("gsm8", "did you mean 'gsm8k'?"),
        ("qqqq", "known: demo, "),
        ("", "known: demo, "),
    ],
)
def test_an_unknown_task_is_named_with_a_close_one(name: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(TaskConfig(name=name))
    assert repr(name) in str(caught.value)
    assert remedy in str(caught.value)


def test_a_task_from_a_file_asks_for_the_file() -> None:
    with pytest.raises(ConfigError, match=r"task gsm8k reads its problems from a file; give task\.path"):
        load_task(TaskConfig(name="gsm8k"))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown sorting task 'sort-pears'; there are sort-letters"):
        SortingTask("x", ("sort-pears",))
