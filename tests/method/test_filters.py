"""Which rows a round learns from: each filter alone, several together, and what they ask the model again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import MODEL, open_run
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.filters import (
    ByAgreement,
    ByVerdict,
    ByVotes,
    Distinct,
    Filter,
    KeepAll,
    Length,
    MaxPerPrompt,
    apply,
    by_verdict,
)
from selfevo.method.prompts import ENGLISH, Wording, parse_verdict
from selfevo.method.protocols import Generation
from selfevo.method.records import Judged, Turns
from selfevo.method.verdicts import Verdict

YES, NO = "Verdict: qualified", "Verdict: not qualified"


def judged(
    judgement: str = YES, feedback: str = NO, id: str = "7", prompt: str = "p", refinement: str = "r^"
) -> Judged:
    return Judged(id, prompt, "r", feedback, refinement, judgement)


@dataclass
class Sampler:
    """Answers with the next of `texts`, and counts how it is asked; "..." stands for a text without an end."""

    texts: Sequence[Sequence[str]] = ()
    asked: list[tuple[str, list[Any], int, float]] = field(default_factory=list)
    wording: Wording = ENGLISH

    def sample(self, skill: Any, rows: Any, times: int, temperature: float) -> list[list[Generation]]:
        self.asked.append((skill.name, list(rows), times, temperature))
        return [[Generation(t, "length" if t == "..." else "stop", 1, 1) for t in several] for several in self.texts]


def kept(filters: Sequence[Filter], rows: Sequence[Judged], sampler: Sampler | None = None) -> list[str | None]:
    decide = apply(filters, sampler or Sampler(), rows)
    return [decide(row) for row in rows]


@pytest.mark.parametrize(
    ("judgement", "reason"),
    [
        ("Good.\nVerdict: qualified", None),
        ("Bad.\nVerdict: not qualified", "verdict not qualified"),
        ("Good.", "verdict unreadable"),
        ("", "verdict unreadable"),
        ("Verdict: qualified\nVerdict: qualified", None),
        ("Verdict: not qualified\nVerdict: qualified", "verdict unreadable"),
    ],
)
def test_only_a_readable_yes_is_kept(judgement: str, reason: str | None) -> None:
    assert kept([ByVerdict()], [judged(judgement)]) == [reason]


@given(st.text())
def test_no_text_is_kept_by_accident(judgement: str) -> None:
    assert (by_verdict(judged(judgement)) is None) == (parse_verdict(judgement) is Verdict.QUALIFIED)


def test_the_second_feedback_decides_and_not_the_first() -> None:
    assert by_verdict(judged(NO, feedback=YES)) == "verdict not qualified"
    assert by_verdict(judged(YES, feedback=NO)) is None


@given(st.text())
def test_without_a_filter_everything_is_kept(judgement: str) -> None:
    assert kept([KeepAll()], [judged(judgement)]) == [None]


def test_votes_are_counted_and_one_that_cannot_be_read_is_none() -> None:
    rows = [judged(NO, id="a"), judged(YES, id="b"), judged(YES, id="c")]
    runner = Sampler([[YES, YES, NO], [YES, "what?", NO], [YES, "...", "..."]])
    assert kept([ByVotes(votes=3)], rows, runner) == [None, "1 of 3 votes", "1 of 3 votes"]
    [(skill, asked, times, temperature)] = runner.asked
    assert (skill, times, temperature) == ("judge", 3, 0.7)
    assert [row.refinement for row in asked] == ["r^", "r^", "r^"]
    assert not hasattr(asked[0], "judgement"), "the voters do not see how it was judged before"


def test_a_share_of_votes_has_to_be_passed() -> None:
    runner = Sampler([[YES, YES, NO, NO]])
    assert kept([ByVotes(votes=4)], [judged()], runner) == ["2 of 4 votes"]
    assert kept([ByVotes(votes=4, share=0.4)], [judged()], runner) == [None]


def test_agreement_compares_answers_and_not_words() -> None:
    rows = [judged(NO, id="a", refinement="So it is 6."), judged(NO, id="b", refinement="#### 7")]
    runner = Sampler([["so 3 + 3 = 6", "The answer is 6.00", "5"], ["7", "...", "8"]])
    assert kept([ByAgreement(samples=3)], rows, runner) == [None, "1 of 3 samples agree"]
    [(skill, asked, _, _)] = runner.asked
    assert (skill, [row.prompt for row in asked]) == ("respond", ["p", "p"])


def test_length_is_that_of_the_refinement() -> None:
    rows = [judged(refinement="x" * n) for n in (1, 2, 5, 6)]
    reasons = kept([Length(min_characters=2, max_characters=5)], rows)
    assert reasons == ["shorter than 2 characters", None, None, "longer than 5 characters"]


def test_duplicates_go_whatever_their_case_and_spacing() -> None:
    rows = [
        judged(refinement="A b"),
        judged(refinement="a  B "),
        judged(refinement="a c"),
        judged(prompt="q", refinement="A b"),
    ]
    assert kept([Distinct()], rows) == [None, "duplicate", None, None]


def test_a_cap_counts_only_what_passed_the_filters_before_it() -> None:
    rows = [judged(NO), judged(YES), judged(YES), judged(YES, prompt="q")]
    assert kept([ByVerdict(), MaxPerPrompt()], rows) == [
        "verdict not qualified",
        None,
        "more than 1 of its prompt",
        None,
    ]
    assert kept([MaxPerPrompt(), ByVerdict()], rows) == [
        "verdict not qualified",
        "more than 1 of its prompt",
        "more than 1 of its prompt",
        None,
    ]


def test_every_round_starts_anew() -> None:
    filters: list[Filter] = [MaxPerPrompt(), Distinct()]
    assert kept(filters, [judged()]) == kept(filters, [judged()]) == [None]


def test_in_a_run_the_model_is_asked_again_in_rooms_of_their_own_and_only_once(tmp_path: Path) -> None:
    """Votes are sampled rows like any others: on disk, with their own seeds, and not asked again by a resume."""

    def answer(model: Path, turns: Turns) -> str:
        return YES if "good" in turns[1] else NO

    engine = ScriptedEngine(answer, batch_size=4)
    rows = [judged(NO, id="a", refinement="good"), judged(YES, id="b", refinement="bad")]
    runner = open_run(tmp_path, engine).runner("round-1", MODEL)
    assert [row.id for row in runner.filter(rows, [ByVotes(votes=3)])] == ["a"]
    assert len(engine.calls) == 6
    assert len({request.seed for _, request in engine.calls}) == 6
    assert {path.parent.name for path in tmp_path.glob("stages/*/judge.jsonl")} == {
        f"round-1-again-{n}" for n in (1, 2, 3)
    }
    again = open_run(tmp_path, engine).runner("round-1", MODEL)
    assert [row.id for row in again.filter(rows, [ByVotes(votes=3)])] == ["a"]
    assert len(engine.calls) == 6
