"""Multiple choice: which letter a response chooses, and what a file may give as the right one."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_own_files import NONE, load

from selfevo.errors import DataError
from selfevo.tasks.choice import read_choice

CITIES = ("Rome", "Paris", "A city", "Bonn")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("B) Paris", "B"),
        ("b) Paris", "B"),
        ("(B) Paris", "B"),
        ("B. Paris, since it lies on the Seine.", "B"),
        ("The answer is B", "B"),
        ("The answer is (B).", "B"),
        ("The correct answer is option B.", "B"),
        ("The answer is **B. Paris**", "B"),
        ("Answer: B", "B"),
        ("#### B", "B"),
        ("\\boxed{B}", "B"),
        ("$\\boxed{\\text{(B)}}$", "B"),
        ("<answer>B</answer>", "B"),
        ("The answer is B because Rome is not in France.", "B"),
        ("The answer is A because of that.", "A"),
        ("The answer is A.", "A"),
        ("The answer is B, not A.", "B"),
        ("Option B is correct.", "B"),
        ("The correct option is B", "B"),
        ("I would choose B.", "B"),
        ("(B) is right. The others are wrong.", "B"),
        ("Let me think. A is in Italy.\n\nB", "B"),
        ("Paris", "B"),
        ("paris.", "B"),
        ("The answer is Paris.", "B"),
        ("The answer is a city", "C"),
        ("<think>A? No.</think>B", "B"),
        ("The answer is A. Wait.\nThe answer is B.", "B"),
        ("Ｂ", "B"),
        ("答案是B", "B"),
        # No choice, or several.
        ("The answer is A or B", ""),
        ("The answer is A and B.", ""),
        ("A. Rome\nB. Paris\nC. A city\nD. Bonn", ""),
        ("The answer is a bit unclear.", ""),
        ("The answer is not B.", ""),
        ("E", ""),
        ("The answer is E", ""),
        ("A nice question about Europe", ""),
        ("I do not know", ""),
        ("Because", ""),
        ("", ""),
        ("Rome Paris", ""),
        ("The answer is Berlin", ""),
    ],
)
def test_the_letter_of_a_response(response: str, letter: str) -> None:
    assert read_choice(response, CITIES, "ABCD") == letter


@given(st.text(), st.integers(2, 10))
def test_any_text_chooses_one_of_the_letters_or_none(text: str, count: int) -> None:
    assert read_choice(text, (), ascii_uppercase[:count]) in {"", *ascii_uppercase[:count]}


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "The answer is {}.", "Answer: ({})", "{}) yes"]))
def test_each_form_gives_its_letter(letter: str, form: str) -> None:
    assert read_choice(form.format(letter), CITIES, "ABCD") == letter


LISTED = "Capital of France?\nA. Rome\nB. Paris\nC. Bonn"


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"prompt": LISTED, "answer": "B"}, "B"),
        ({"prompt": LISTED, "answer": "b"}, "B"),
        ({"prompt": LISTED, "answer": "(B)"}, "B"),
        ({"prompt": LISTED, "answer": "B. Paris"}, "B"),
        ({"prompt": LISTED, "answer": "Paris"}, "B"),
        ({"prompt": LISTED, "answer": 1}, "B"),
        ({"prompt": "Capital?\na) Rome\nb) Paris", "answer": "Paris"}, "B"),
        ({"prompt": LISTED, "answer": "B", "choices": []}, "B"),
        ({"prompt": "Capital? (A) Rome (B) Paris (C) Bonn", "answer": "Paris"}, "B"),
        ({"prompt": "Capital of France?", "answer": "Paris", "choices": ["Rome", "Paris"]}, "B"),
        ({"prompt": "Capital of France?", "answer": 1, "choices": ["Rome", "Paris"]}, "B"),
        ({"prompt": "Capital?", "answer": "2", "choices": {"text": ["Rome", "Paris"], "label": ["1", "2"]}}, "B"),
        ({"prompt": "Capital?", "answer": "B", "choices": {"A": "Rome", "B": "Paris"}}, "B"),
        ({"prompt": "Capital?", "answer": "B", "choices": '["Rome", "Paris"]'}, "B"),
        ({"prompt": "Capital?", "answer": "B"}, "B"),
    ],
)
def test_a_gold_may_be_a_letter_an_index_or_a_text(tmp_path: Path, row: dict[str, Any], right: str) -> None:
    task = load(tmp_path, "choice", row)
    [problem] = task.problems(1, 0, NONE)
    assert problem.answer == right
    assert task.is_correct(problem, f"The answer is {right}.")
    assert task.is_correct(problem, task.solution(problem))
    assert not task.is_correct(problem, "The answer is A.")
    if row.get("choices"):
        assert problem.prompt.prompt.endswith("\n\nA. Rome\nB. Paris")


def test_choices_that_a_prompt_lists_are_not_added_again(tmp_path: Path) -> None:
    [problem] = load(
        tmp_path, "choice", {"prompt": LISTED, "answer": 2, "choices": ["Rome", "Paris", "Bonn"]}
    ).problems(1, 0, NONE)
    assert problem.prompt.prompt == LISTED
    assert problem.answer == "C"


def test_indices_may_begin_at_one(tmp_path: Path) -> None:
    row = {"prompt": "Capital?", "answer": 2, "choices": ["Rome", "Paris"]}
    [problem] = load(tmp_path, "choice", row, options={"first_index": 1}).problems(1, 0, NONE)
    assert problem.answer == "B"
    with pytest.raises(DataError, match=r"'2' is no letter, text or index \(from 0\) of 2 choices.*first_index"):
        load(tmp_path, "choice", row).problems(1, 0, NONE)


@pytest.mark.parametrize(
    ("answer", "choices", "message"),
    [
        ("Berlin", ["Rome", "Paris"], "is no letter, text or index"),
        (1, ["1", "2"], "the answer '1' can be A, by its text or B, by its index; give the letter"),
        ("B", ["B", "A"], "can be A, by its text or B, by its letter"),
        ("same", ["same", "same"], "can be A, by its text or B, by its text"),
        ("A", ["one"], "there are 1 choices"),
        ("A", "one, two", "the choices are text; give a list"),
        ("A", {"text": ["x", "y"], "label": ["1"]}, "2 choices and 1 labels"),
        ("D", ["x", "y", "z"], "is no letter"),
    ],
)
def test_a_gold_that_means_none_or_several_is_an_error(tmp_path: Path, answer: Any, choices: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, "choice", {"prompt": "Which?", "answer": answer, "choices": choices}).problems(1, 0, NONE)
    assert message in str(caught.value)


def test_several_answers_may_be_right(tmp_path: Path) -> None:
    task = load(tmp_path, "choice", {"prompt": LISTED, "answer": ["A", "Paris"]})
    [problem] = task.problems(1, 0, NONE)
    assert [task.is_correct(problem, each) for each in ("A", "B", "C")] == [True, True, False]
