"""Figures of a round against values worked out by hand, and the alarms that a collapse sets off."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config.sections import MonitorsConfig
from selfevo.evaluation import monitors
from selfevo.evaluation.monitors import distinct, entropy, round_figures, self_bleu

YES, NO = "Verdict: qualified", "Verdict: not qualified"


def alarms(figures: dict[str, float | None], limits: MonitorsConfig) -> list[str]:
    found = monitors.alarms("round-1", figures, limits)
    assert all(alarm.place == "round-1" and alarm.kind == "monitor" and alarm.remedy for alarm in found)
    return [alarm.finding for alarm in found]


def test_distinct_n_by_hand() -> None:
    assert distinct(["a b a", "a b"], 1) == 2 / 5
    assert distinct(["a b a", "a b"], 2) == 2 / 3
    assert distinct(["a", ""], 2) is None


def test_entropy_by_hand() -> None:
    assert entropy(Counter({"1": 4})) == 0
    assert entropy(Counter("abcd")) == pytest.approx(1)
    assert entropy(Counter({"1": 2, "2": 2})) == pytest.approx(0.5)  # 1 bit of 2
    assert entropy(Counter({"1": 1})) is None


def test_self_bleu_by_hand() -> None:
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h"]) == 0
    # One word of 4 shared; no pair of 3, no triple of 2, no quadruple of 1: half a match each.
    little = math.exp(sum(math.log(matched / n) for matched, n in ((1, 4), (0.5, 3), (0.5, 2), (0.5, 1))) / 4)
    assert self_bleu(["a b c d", "a f g h"]) == pytest.approx(little)
    # A comma belongs to its word, and case counts.
    assert self_bleu(["a, B", "a b"]) == 0
    # Two words against three: both match, one pair of one, and a brevity penalty of e^(1 - 3/2); the other way 2 of 3
    # words, 1 of 2 pairs, and none of the one triple.
    short, long = math.exp(-0.5), math.exp((math.log(2 / 3) + math.log(1 / 2) + math.log(0.5)) / 3)
    assert self_bleu(["a b", "a b c"]) == pytest.approx((short + long) / 2)
    assert self_bleu(["a"]) is None


@given(st.lists(st.text(alphabet="ab "), min_size=2, max_size=6))
def test_no_text_breaks_the_figures(texts: list[str]) -> None:
    bleu = self_bleu(texts)
    assert bleu is not None
    assert 0 <= bleu <= 1
    for n in (1, 2):
        share = distinct(texts, n)
        assert share is None or 0 < share <= 1


def write(folder: Path, stage: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_round(folder: Path, responses: list[str], feedback: list[str], refined: list[str], judged: list[str]) -> Path:
    """ "..." is a text that was cut at 8 tokens."""

    def rows(column: str, texts: list[str]) -> list[dict[str, Any]]:
        whole = [text != "..." for text in texts]
        return [
            {
                "id": f"{i:02}",
                column: text,
                "response": responses[i],
                "status": "ok" if ok else "quarantined",
                "generation": {"finish": "stop" if ok else "length", "new_tokens": 3 if ok else 8},
            }
            for i, (text, ok) in enumerate(zip(texts, whole, strict=True))
        ]

    for stage, column, texts in (
        ("respond", "response", responses),
        ("critique", "feedback", feedback),
        ("refine", "refinement", refined),
        ("judge", "judgement", judged),
    ):
        write(folder, stage, rows(column, texts))
    return folder


def test_the_figures_of_a_round(tmp_path: Path) -> None:
    responses = ["it is 1", "it is 2", "it is 3", "..."]
    folder = make_round(tmp_path, responses, [YES, NO, "?"], ["it is 1", "it is 4", "3"], [YES, "...", NO])
    figures = round_figures(folder)
    assert figures["mean_length"] == (3 * 3 + 8) / 4
    assert (figures["truncated"], figures["stopped"]) == (1 / 4, 3 / 4)
    assert figures["distinct_1"] == 5 / 9
    assert figures["entropy"] == pytest.approx(1)
    assert (figures["critique_yes"], figures["unparsed"]) == (1 / 2, 1 / 3)
    assert (figures["judge_yes"], figures["judge_unparsed"]) == (1 / 2, 1 / 3)
    assert figures["yes"] == 2 / 4
    assert figures["agreement"] == 2 / 3
    assert alarms(figures, MonitorsConfig()) == [
        "verdict unreadable 0.333, above 0.3: the feedback does not end in a verdict"
    ]
    assert alarms(figures, MonitorsConfig(max_unparsed=None, min_distinct_1=0.6)) == [
        "distinct words 0.556, below 0.6: the model uses few words"
    ]


def test_one_answer_to_everything_is_an_alarm(tmp_path: Path) -> None:
    same = ["the answer is 42"] * 30
    folder = make_round(tmp_path, same, [YES, NO] * 15, same, [YES] * 30)
    names = [alarm.split(" ")[0] for alarm in alarms(round_figures(folder), MonitorsConfig())]
    assert names == ["self-BLEU", "entropy"]


def test_a_critic_that_always_says_the_same_is_an_alarm(tmp_path: Path) -> None:
    responses = [f"number {i} and {i * i}" for i in range(30)]
    for verdict, expected in (
        (YES, ["verdict yes 1.000, above 0.99", "verdict yes on r 1.000, above 0.99"]),
        (NO, ["verdict yes 0.000, below 0.01"]),
    ):
        folder = make_round(tmp_path, responses, [verdict] * 30, responses, [verdict] * 30)
        assert [each.split(":")[0] for each in alarms(round_figures(folder), MonitorsConfig())] == expected


def test_a_critic_that_finds_nothing_wrong_is_an_alarm_though_its_judge_still_does(tmp_path: Path) -> None:
    responses = [f"number {i} and {i * i}" for i in range(30)]
    folder = make_round(tmp_path, responses, [YES] * 30, responses, [YES] * 25 + [NO] * 5)
    [alarm] = alarms(round_figures(folder), MonitorsConfig())
    assert alarm.startswith("verdict yes on r 1.000, above 0.99: the responses are all right, or")
    assert alarms(round_figures(folder), MonitorsConfig(max_critique_yes=None)) == []


def test_one_no_among_the_verdicts_does_not_hide_a_critic_that_always_says_yes(tmp_path: Path) -> None:
    responses = [f"number {i} and {i * i}" for i in range(60)]
    folder = make_round(tmp_path, responses, [NO, *[YES] * 59], responses, [YES] * 60)
    [alarm] = alarms(round_figures(folder), MonitorsConfig())
    assert alarm.startswith("verdict yes 0.992, above 0.99")  # on r alone it is 0.983


def test_a_critic_that_sends_every_response_back_and_takes_every_refinement_is_no_alarm(tmp_path: Path) -> None:
    responses = [f"number {i} and {i * i}" for i in range(30)]
    folder = make_round(tmp_path, responses, [NO] * 30, responses, [YES] * 30)
    assert alarms(round_figures(folder), MonitorsConfig()) == []


def test_a_judge_that_keeps_everything_can_be_an_alarm(tmp_path: Path) -> None:
    responses = [f"number {i} and {i * i}" for i in range(30)]
    folder = make_round(tmp_path, responses, [YES, NO] * 15, responses, [YES] * 30)
    assert alarms(round_figures(folder), MonitorsConfig()) == []
    [alarm] = alarms(round_figures(folder), MonitorsConfig(max_judge_yes=0.99))
    assert alarm == "verdict yes on r^ 1.000, above 0.99: the filter drops almost nothing"


def test_an_empty_round_has_no_figures_and_no_alarm(tmp_path: Path) -> None:
    figures = round_figures(make_round(tmp_path, [], [], [], []))
    assert set(figures.values()) == {None}
    assert alarms(figures, MonitorsConfig()) == []
