"""The feedback of an annotator that works a problem out: its verdict must follow from what stands before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workings import Step, calculations, first_difference, gold_steps, short_form, worked_feedback, working_of

from selfevo.method.prompts import parse_verdict
from selfevo.method.verdicts import Verdict

QUESTION = "Natalia sold clips to 48 friends in April, and half as many in May. How many clips did she sell altogether?"
GOLD = "She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"
WORKING = "In May: 48 / 2 = 24.\nTogether: 48 + 24 = 72.\n#### 72"


def test_the_steps_of_a_gold_solution_keep_their_words_and_their_marks() -> None:
    assert gold_steps(GOLD) == [
        Step("She sold 48/2 = 24 clips in May.", (("48/2", "24"),)),
        Step("She sold 48+24 = 72 clips altogether.", (("48+24", "72"),)),
    ]


def test_a_step_without_marks_is_a_step() -> None:
    assert gold_steps("It is 3.\n#### 3") == [Step("It is 3.", ())]


def test_a_wrong_response_is_told_the_working_both_results_and_its_first_own_step() -> None:
    response = "In May: 48 / 2 = 24.\nTogether: 48 + 22 = 70.\nThat is 70 + 0 = 70.\n#### 70"
    assert worked_feedback(QUESTION, WORKING, response, "72").splitlines() == [
        "Work it out: In May: 48 / 2 = 24.",
        "Together: 48 + 24 = 72.",
        "Compare: the result is 72, the response says 70: different.",
        "The first step that differs: 48 + 22 = 70.",
        "Verdict: not qualified",
    ]


def test_a_right_response_is_told_the_same_working_and_that_the_results_are_one() -> None:
    assert worked_feedback(QUESTION, WORKING, "72.0 clips", "72").splitlines()[2:] == [
        "Compare: the result is 72, the response says 72: the same.",
        "Verdict: qualified",
    ]


def test_a_response_without_a_number_is_wrong() -> None:
    feedback = worked_feedback(QUESTION, WORKING, "no idea", "72")
    assert "the response has none" in feedback
    assert parse_verdict(feedback) is Verdict.NOT_QUALIFIED


@given(st.text())
def test_whatever_is_criticised_the_verdict_can_be_read(response: str) -> None:
    assert parse_verdict(worked_feedback(QUESTION, WORKING, response, "72")) is not Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He pays 3 * $4 = $12 and 12 - 2 = 10.", ["3 * $4 = 12", "12 - 2 = 10"]),
        ("Sum: (2 + 3) * 4 = 20", ["(2 + 3) * 4 = 20"]),
        ("x = 5", []),
        ("1,000 + 500 = 1,500", ["1,000 + 500 = 1,500"]),
        ("She has <<2+2=4>>4", []),
    ],
)
def test_calculations_are_read_where_they_are_whole(text: str, found: list[str]) -> None:
    assert [shown for shown, _ in calculations(text)] == found


def test_a_step_whose_result_the_working_or_the_question_holds_does_not_differ() -> None:
    assert first_difference(QUESTION, WORKING, "24 + 24 = 48, then 48 + 24 = 72, then 72 * 2 = 144") == "72 * 2 = 144"
    assert first_difference(QUESTION, WORKING, "I think 7") == ""


def test_a_working_is_a_solution_without_its_last_line() -> None:
    assert working_of(WORKING) == "In May: 48 / 2 = 24.\nTogether: 48 + 24 = 72."


def test_a_working_at_length_in_short_lines_are_its_calculations_and_the_answer() -> None:
    working = (
        "First:\n\\[ 2000 \\text{ dollars} \\times 0.30 = 600 \\]\n\\[ \\frac{600}{2} = 300 \\]\n"
        "So \\$2000 - \\$300 = \\$1700, \\(\\boxed{1700}\\)."
    )
    assert short_form(working, "1700").splitlines() == [
        "2000 * 0.30 = 600",
        "600 / 2 = 300",
        "$2000 - $300 = 1700",
        "#### 1700",
    ]
    assert short_form(working, "1800") == ""
    assert short_form("I know it: 5.", "5") == ""
