"""Ids are content hashes that stages, sets and resumes compare; records hold nothing but what a model wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.method.records import (
    Critiqued,
    Drafted,
    Example,
    Judged,
    Prompt,
    Quarantined,
    Refined,
    as_row,
    check_fields,
    content_id,
    extended,
    from_row,
)

ROWS = (Prompt, Drafted, Critiqued, Refined, Judged)
PARTS = st.lists(st.one_of(st.text(), st.integers(), st.booleans(), st.none()), max_size=4)


def test_content_id_is_the_same_in_every_process_and_release() -> None:
    """A changed hash would orphan every run directory that exists: this value may never change."""
    written = '["Sort these letters: b a", 0, {"a": [1.0, "é"], "b": 1}]'
    expected = hashlib.sha256(written.encode()).hexdigest()[:16]
    assert content_id("Sort these letters: b a", 0, {"b": 1, "a": (1.0, "é")}) == expected
    code = "from selfevo.method.records import content_id; print(content_id('x', {'b': 1, 'a': 2}))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {content_id("x", {"a": 2, "b": 1})}


@given(PARTS, PARTS)
def test_content_id_differs_where_content_differs(a: list[object], b: list[object]) -> None:
    assert (content_id(*a) == content_id(*b)) == (repr(a) == repr(b))


@given(st.text(alphabet=st.characters(min_codepoint=0xD7FF, max_codepoint=0xE001)))
def test_content_id_takes_half_surrogates(text: str) -> None:
    assert len(content_id(text)) == 16


def test_content_id_keeps_parts_apart() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id(("a", "b")) != content_id("a", "b")


@given(st.text(), st.sampled_from(["", " ", "\n", "\t \n"]))
def test_a_prompt_is_known_by_its_words_not_by_the_space_around_them(text: str, space: str) -> None:
    prompt = Prompt.of(space + text + space)
    assert prompt == Prompt.of(text)
    assert prompt.prompt == text.strip()
    assert (Prompt.of(text + "x").id == prompt.id) is False


def test_each_stage_adds_exactly_one_field() -> None:
    names = [[field.name for field in dataclasses.fields(row) if not field.kw_only] for row in ROWS]
    assert names[0] == ["id", "prompt"]
    added = [longer[len(shorter) :] for shorter, longer in itertools.pairwise(names)]
    assert added == [["response"], ["feedback"], ["refinement"], ["judgement"]]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in itertools.pairwise(names))


def test_a_plain_prompt_keeps_its_id_and_its_row() -> None:
    """Run directories hold these ids: they may never change."""
    plain = Prompt.of(" q ")
    assert plain.id == content_id("q")
    assert as_row(plain) == {"id": plain.id, "prompt": "q"}
    assert as_row(extended(Drafted, plain, "r")) == {"id": plain.id, "prompt": "q", "response": "r"}


@given(st.text(), st.text(), st.lists(st.text(), max_size=4).filter(lambda turns: len(turns) % 2 == 0))
def test_a_conversation_comes_back_from_its_row(text: str, system: str, history: list[str]) -> None:
    prompt = Prompt.of(text, system=system, history=tuple(history))
    row = json.loads(json.dumps({**as_row(prompt), "status": "ok"}))
    assert from_row(Prompt, row) == prompt
    assert prompt.prompt_id == prompt.id


def test_what_differs_in_system_prompt_or_history_is_another_prompt() -> None:
    same = [Prompt.of("q"), Prompt.of("q", system="s"), Prompt.of("q", history=("a", "b")), Prompt.of("q", system="a")]
    assert len({prompt.id for prompt in same}) == 4
    with pytest.raises(ValueError, match="has 1 turns"):
        Prompt.of("q", history=("a",))


def test_a_stage_cannot_be_skipped() -> None:
    with pytest.raises(TypeError):
        Refined("id", "p", "r", refinement="r^")  # type: ignore[call-arg]


@pytest.mark.parametrize("record", [*ROWS, Quarantined, Example])
def test_records_cannot_be_changed_or_extended(record: type) -> None:
    row = record(*["x"] * sum(not field.kw_only for field in dataclasses.fields(record)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(row, dataclasses.fields(record)[0].name, "y")
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(row, "gold", "42")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "response": "r"}, None),
        ({"prompt": "p"}, "column 'response' is missing; the row has 'prompt'"),
        ({}, "column 'prompt' is missing; the row has no columns"),
        ({"prompt": "p", "response": None}, "column 'response' is empty"),
        ({"prompt": "p", "response": 7}, "column 'response' holds int, not text"),
        ({"prompt": ["p"], "response": "r"}, "column 'prompt' holds list, not text"),
        ({"prompt": " \n", "response": "r"}, "column 'prompt' is empty"),
    ],
)
def test_check_fields_says_what_is_wrong(row: dict[str, object], reason: str | None) -> None:
    found = check_fields(row, ("prompt", "response"))
    assert found is None if reason is None else found is not None and found.startswith(reason)
