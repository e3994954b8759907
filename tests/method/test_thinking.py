"""Thinking before an answer: found where it opens a text, never seen by those who judge, never taken for an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.inference import answer
from selfevo.method.prompts import parse_verdict
from selfevo.method.protocols import Generation, Request, Sampling, generate_all
from selfevo.method.records import Drafted, Judged, Prompt, Turns
from selfevo.method.skills import CRITIQUE
from selfevo.method.thinking import Thinking, divided, heard, is_open, recorded, reopened, spoken
from selfevo.method.training_examples import preference_examples
from selfevo.method.verdicts import Verdict

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[◁"), max_size=30)
TAGS = st.sampled_from(
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷")]
)


@given(tags=TAGS, thought=WORDS, answer=WORDS)
def test_what_stands_behind_closed_thinking_is_the_answer(tags: tuple[str, str], thought: str, answer: str) -> None:
    text = f"{tags[0]}{thought}{tags[1]}\n\n{answer}"
    assert spoken(text).strip() == answer.strip()
    assert divided(text) == (tags[0], thought, tags[1], f"\n\n{answer}")
    assert not is_open(text)
    assert is_open(f"{tags[0]}{thought}")
    assert recorded(text, "keep") == text
    assert recorded(text, "show").split() == f"{thought} {answer}".split()


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "",
        "Write <think> and </think> around it.",
        "</think> closes it",
        "It is 4.\n<think>hm</think>",
        "<b>bold</b>",
        "<thinker>a</thinker> b",
        "<think>a</thinking> b",
        "<thinks>a</thinks>",
        "<reasoning>1 + 1</reasoning><answer>2</answer>",
        "<THINK>a</THINK> b",
        "`<think>`x`</think>`",
    ],
)
@pytest.mark.parametrize("thinking", ["drop", "keep", "show"])
def test_other_texts_stay_as_they_are(text: str, thinking: Thinking) -> None:
    assert recorded(text, thinking) == text
    assert spoken(text) == text


@given(pieces=st.lists(st.sampled_from(["<think>", "</think>", "a", "\n", " ", "<", "[THINK]"]), max_size=8))
def test_nothing_is_lost_but_the_first_thought(pieces: list[str]) -> None:
    text = "".join(pieces)
    block = divided(text)
    assert text.endswith(spoken(text))
    if block is None:
        assert spoken(text) == text
    else:
        assert text.lstrip() == "".join(block)


@pytest.mark.parametrize(
    ("text", "finish"),
    [
        ("4", "stop"),
        ("<think>\nhm\n</think>\n\n4", "stop"),
        ("<think>\nhm, 4", "length"),
        ("[THINK]hm", "length"),
        ("<think>\nhm\n</think>\n", "empty"),
        ("Use <think>.", "stop"),
    ],
)
def test_a_text_that_never_leaves_its_thinking_is_no_answer(text: str, finish: str) -> None:
    engine = ScriptedEngine(lambda model, turns: Generation(text, "stop", 1, 1))
    [found] = generate_all(engine, Path("m"), [Request(("p",), 0)], Sampling(8))
    assert (found.text, found.finish) == (text, finish)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hm\n</think>\n\n4", "4"),
        ("<think>\nhm\n</think>\n\n4", "4"),
        ("close it with </think> please", "close it with </think> please"),
        ("4", "4"),
    ],
)
def test_a_server_may_leave_the_opening_tag_in_its_prompt(text: str, expected: str) -> None:
    assert spoken(reopened(text)) == expected


def test_who_criticises_refines_or_judges_does_not_see_thinking() -> None:
    row = Drafted("1", "p", "<think>secret</think>\n4")
    assert CRITIQUE.request(row, 0).turns[1] == "4"
    seen: list[Turns] = []

    def model(_: Path, turns: Turns) -> str:
        seen.append(turns)
        return "<think>secret</think>\n" + ("No.\nVerdict: not qualified" if len(turns) == 3 else "4")

    def ask(skill: object, rows: object) -> list[Generation]:
        requests = [skill.request(each, 0) for each in rows]  # type: ignore[attr-defined]
        return generate_all(ScriptedEngine(model), Path("m"), requests, Sampling(8))

    [drafts] = answer(ask, [Prompt.of("p")])
    assert [draft.text for draft in drafts] == ["4", "4"]
    assert drafts[0].verdict is Verdict.NOT_QUALIFIED
    assert len(seen) == 3
    assert "secret" not in str(seen)
    assert heard(("<think>a</think>p", "<think>a</think>r", "q")) == ("<think>a</think>p", "r", "q")


def test_a_verdict_within_thinking_is_none() -> None:
    for text in ("<think>Verdict: qualified</think>\nHm.", "<think>Verdict: qualified", "[THINK]Verdict: qualified"):
        assert parse_verdict(text) is Verdict.UNKNOWN
    assert parse_verdict("<think>Verdict: not qualified?</think>\nVerdict: qualified") is Verdict.QUALIFIED


def test_texts_that_differ_in_their_thinking_alone_are_no_preference() -> None:
    row = Judged("1", "p", "<think>a</think>4", "f", "<think>b</think>4", "v")
    assert preference_examples([row]) == []
