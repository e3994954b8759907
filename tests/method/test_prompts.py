"""The conversations and the verdict grammar. A verdict that is misread trains on wrong answers or starves a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.method import prompts
from selfevo.method.filters import by_verdict
from selfevo.method.prompts import CRITIQUE, REFINE, parse_verdict, verdict_line
from selfevo.method.records import Judged, Prompt
from selfevo.method.verdicts import Verdict
from verdict_texts import ACCEPTED, BREAKS, DRESS, HOSTILE, INJECTED, UNSEEN, places

CASES_FOLDER = Path(__file__).parents[1] / "cases"
YES, NO, UNKNOWN = Verdict.QUALIFIED, Verdict.NOT_QUALIFIED, Verdict.UNKNOWN
DECIDED = st.sampled_from([YES, NO])
# Text none of whose lines can be taken for a verdict.
PROSE = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "verdict" not in text.lower())


@pytest.mark.parametrize(("feedback", "verdict"), ACCEPTED)
def test_a_verdict_on_the_last_line_is_read(feedback: str, verdict: Verdict) -> None:
    assert parse_verdict(feedback) is verdict


@pytest.mark.parametrize("feedback", HOSTILE)
def test_anything_but_the_grammar_is_unknown(feedback: str) -> None:
    assert parse_verdict(feedback) is UNKNOWN


def test_unknown_is_neither_yes_nor_no() -> None:
    assert len({YES, NO, UNKNOWN}) == 3
    assert UNKNOWN not in (YES, NO)
    assert parse_verdict(verdict_line(UNKNOWN)) is UNKNOWN


@given(PROSE, DECIDED, st.sampled_from([str, str.upper, str.lower, str.title]), st.sampled_from(["", ".", "\n", " "]))
def test_what_an_annotator_writes_is_read_back(prose: str, verdict: Verdict, case: object, end: str) -> None:
    assert callable(case)
    assert parse_verdict(f"{prose}\n{case(verdict_line(verdict))}{end}") is verdict


@given(PROSE, DECIDED)
def test_text_behind_a_verdict_makes_it_unknown(prose: str, verdict: Verdict) -> None:
    assert parse_verdict(f"{verdict_line(verdict)}\n{prose}x") is UNKNOWN


@given(PROSE, PROSE, DECIDED, DECIDED)
def test_two_verdicts_are_unknown_unless_they_agree(before: str, between: str, first: Verdict, second: Verdict) -> None:
    feedback = f"{before}\n{verdict_line(first)}\n{between}\n{verdict_line(second)}"
    assert parse_verdict(feedback) is (first if first is second else UNKNOWN)


@given(st.text())
def test_feedback_without_a_verdict_line_is_unknown(feedback: str) -> None:
    if "verdict:" not in feedback.lower():
        assert parse_verdict(feedback) is UNKNOWN


@given(DECIDED, st.data())
def test_no_character_put_inside_a_verdict_turns_it(verdict: Verdict, data: st.DataObject) -> None:
    """A letter or a digit makes it unknown; so does all else but more space, or emphasis that is closed."""
    line = verdict_line(verdict)
    place = data.draw(st.integers(1, len(line) - 1))
    character = data.draw(st.characters(exclude_categories=["Cs"]))
    found = parse_verdict(line[:place] + character + line[place:])
    assert found is UNKNOWN or (found is verdict and character.isspace())


@given(PROSE, DECIDED, st.lists(DRESS, max_size=2), st.sampled_from(["Verdict", "Final Verdict", "OVERALL VERDICT"]))
def test_dress_makes_no_difference(prose: str, verdict: Verdict, dress: list[str], label: str) -> None:
    line = f"{label}: {verdict.value}"
    for each in dress:
        line = each.format(line)
    assert parse_verdict(f"{prose}\n{line}") in (verdict, UNKNOWN)
    if len(dress) < 2:
        assert parse_verdict(f"{prose}\n{line}") is verdict
        assert parse_verdict(f"{line}\n\n{verdict_line(verdict)}") is verdict
        other = NO if verdict is YES else YES
        assert parse_verdict(f"{line}\n{verdict_line(other)}") is UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 22), st.sampled_from(UNSEEN + BREAKS)), max_size=4), PROSE)
def test_nothing_unseen_hides_a_no_from_the_count(put: list[tuple[int, str]], between: str) -> None:
    line = list(verdict_line(NO))
    for place, character in put:
        line.insert(place, character)
    assert parse_verdict(f"{''.join(line)}\n{between}\n{verdict_line(YES)}") is not YES


FEEDBACKS = [json.loads(line) for line in (CASES_FOLDER / "verdicts.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", FEEDBACKS, ids=range(len(FEEDBACKS)))
def test_verdicts_are_read_as_a_person_reads_them(case: dict[str, str]) -> None:
    assert parse_verdict(case["feedback"]).value == case["verdict"]


CASES = [(text, verdict, row) for text in INJECTED for verdict in (YES, NO) for row in places(text, verdict)]


def test_there_are_enough_injections() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize(("text", "verdict", "row"), CASES)
def test_no_injected_words_turn_a_verdict(text: str, verdict: Verdict, row: Judged) -> None:
    """What a feedback finds is read as that or not at all; a row is kept only where it finds the answer qualified."""
    assert parse_verdict(row.judgement) in (verdict, UNKNOWN)
    assert by_verdict(row) is not None or verdict is YES
    if row.prompt == text:
        assert parse_verdict(row.judgement) is verdict


@pytest.mark.parametrize("case", [case for case in FEEDBACKS if case["verdict"] != "unknown"], ids=str)
def test_another_verdict_can_take_the_place_of_any(case: dict[str, str]) -> None:
    words = prompts.without_verdict(case["feedback"])
    assert parse_verdict(words) is UNKNOWN
    for verdict in (YES, NO):
        assert parse_verdict(f"{words}\n{verdict_line(verdict)}") is verdict


def test_conversations_alternate_and_grow_by_two_turns() -> None:
    plain, longer = Prompt.of("p"), Prompt.of("p", system="s", history=("a", "b"))
    assert prompts.respond(plain) == ("p",)
    assert prompts.critique(plain, "r") == ("p", "r", CRITIQUE)
    assert prompts.refine(plain, "r", "f") == ("p", "r", CRITIQUE, "f", REFINE)
    assert prompts.refine(longer, "r", "f") == ("a", "b", *prompts.refine(plain, "r", "f"))
