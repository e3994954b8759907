"""Which rows a round learns from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.filters import FILTERS, by_verdict, keep_all
from selfevo.prompts import Verdict, parse_verdict
from selfevo.records import Judged


def judged(judgement: str, feedback: str = "Verdict: not qualified") -> Judged:
    return Judged("7", "p", "r", feedback, "r^", judgement)


@pytest.mark.parametrize(
    ("judgement", "reason"),
    [
        ("Good.\nVerdict: qualified", None),
        ("Bad.\nVerdict: not qualified", "verdict not qualified"),
        ("Good.", "verdict unreadable"),
        ("", "verdict unreadable"),
        ("Verdict: qualified\nVerdict: qualified", "verdict unreadable"),
    ],
)
def test_only_a_readable_yes_is_kept(judgement: str, reason: str | None) -> None:
    assert by_verdict(judged(judgement)) == reason


@given(st.text())
def test_no_text_is_kept_by_accident(judgement: str) -> None:
    assert (by_verdict(judged(judgement)) is None) == (parse_verdict(judgement) is Verdict.QUALIFIED)


def test_the_second_feedback_decides_and_not_the_first() -> None:
    assert by_verdict(judged("Verdict: not qualified", feedback="Verdict: qualified")) == "verdict not qualified"
    assert by_verdict(judged("Verdict: qualified", feedback="Verdict: not qualified")) is None


@given(st.text())
def test_without_a_filter_everything_is_kept(judgement: str) -> None:
    assert keep_all(judged(judgement)) is None


def test_the_names_a_configuration_can_use() -> None:
    assert {"verdict": by_verdict, "none": keep_all} == FILTERS
