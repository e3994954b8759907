"""Sets that share a prompt are found, whatever its form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.data.disjoint import asked_otherwise, check_disjoint
from selfevo.errors import DataError
from selfevo.method.records import Prompt


def prompts(*questions: str) -> list[Prompt]:
    return [Prompt.of(question) for question in questions]


@given(
    st.text(min_size=1), st.sampled_from("\u200b\u200d\u00ad\u2060\ufeff\u3164\u115f\u2800\u034f\ufe0f\x00\x1b\u202e")
)
def test_what_cannot_be_seen_makes_no_set_disjoint(text: str, unseen: str) -> None:
    with pytest.raises(DataError, match="share 1 prompt"):
        check_disjoint(left=prompts(f"a {text}"), right=prompts(f"{unseen}a {unseen}{text}{unseen}"))


def test_disjoint_sets_pass() -> None:
    evaluation = iter(prompts("c"))
    check_disjoint(pool=prompts("a", "b"), evaluation=evaluation, corpus=prompts("d"))
    assert list(evaluation) == [], "every row was looked at"


@pytest.mark.parametrize("twin", ["What is it?", "what  IS\n it?", "What is it\uff1f", "\u00a0What is it?"])
def test_overlap_is_found_whatever_its_form(twin: str) -> None:
    with pytest.raises(DataError, match="'pool' and 'evaluation' share 1 prompt, for example 'What is it"):
        check_disjoint(pool=prompts("a", "What is it?"), corpus=prompts("b"), evaluation=prompts(twin))


def test_an_empty_set_proves_nothing() -> None:
    with pytest.raises(DataError, match="'evaluation' is empty"):
        check_disjoint(pool=prompts("a"), evaluation=[])
    check_disjoint(allow_empty=["evaluation"], pool=prompts("a"), evaluation=[])


@given(st.text(min_size=1), st.text(alphabet=" \t\n", min_size=1))
def test_case_and_spacing_never_hide_an_overlap(text: str, space: str) -> None:
    with pytest.raises(DataError, match="share 1 prompt"):
        check_disjoint(left=prompts(f"a {text}"), right=prompts(f"A{space}{text.casefold()}"))


def test_a_question_under_another_system_prompt_is_counted() -> None:
    history = ("Hello.", "Hello!")
    questions = [Prompt.of("a"), Prompt.of("b", system="s"), Prompt.of("c", history=history), Prompt.of("d")]
    rows = [Prompt.of(" A", system="t"), Prompt.of("b"), Prompt.of("c"), Prompt.of("e", system="t")]
    check_disjoint(questions=questions, rows=rows)
    assert asked_otherwise(questions, rows) == 2
    assert asked_otherwise(questions, [Prompt.of("c", system="s", history=history)]) == 1
    assert asked_otherwise([], rows) == asked_otherwise(questions, []) == 0
