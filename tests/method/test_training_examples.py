"""The two losses as training sequences: which turns are learnt, with what weight, and how often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.method.prompts import CRITIQUE as ASK_CRITIQUE
from selfevo.method.prompts import REFINE as ASK_REFINE
from selfevo.method.records import Example, Judged, Refined
from selfevo.method.skills import CRITIQUE, REFINE, RESPOND
from selfevo.method.training_examples import (
    answer_examples,
    meta_examples,
    preference_examples,
    prompt_examples,
    self_examples,
)

ONE = Refined("1", "p1", "r1", "f1", "s1")
OTHER_DRAFT = Refined("1", "p1", "r1b", "f1b", "s1b")
TWO = Refined("2", "p2", "r2", "f2", "s2")


def learnt(example: Example) -> list[tuple[str, float]]:
    """The assistant turns with a weight, each with that weight."""
    pairs = zip(example.turns[1::2], example.weights, strict=True)
    return [(turn, weight) for turn, weight in pairs if weight]


def test_a_trajectory_teaches_feedback_and_refinement_but_not_the_draft() -> None:
    (example,) = meta_examples([ONE], beta=0)
    assert example.turns == ("p1", "r1", ASK_CRITIQUE, "f1", ASK_REFINE, "s1")
    assert learnt(example) == [("f1", 1.0), ("s1", 1.0)]
    assert example.weights[0] == 0
    assert example.term == "skills"


def test_a_trajectory_is_trained_in_the_very_words_it_is_asked_in() -> None:
    (example,) = meta_examples([ONE], beta=0)
    assert example.turns[:3] == CRITIQUE.turns(ONE)
    assert example.turns[:5] == REFINE.turns(ONE)
    assert answer_examples([ONE])[0].turns[:1] == RESPOND.turns(ONE)


def test_beta_weighs_the_answer_once_per_prompt() -> None:
    examples = meta_examples([ONE, OTHER_DRAFT, TWO], beta=0.3)
    assert [e.term for e in examples] == ["skills"] * 3 + ["answer"] * 2
    answers = [e for e in examples if e.term == "answer"]
    assert [(e.turns, e.weights) for e in answers] == [(("p1", "s1"), (0.3,)), (("p2", "s2"), (0.3,))]


def test_beta_zero_leaves_plain_answering_out() -> None:
    assert {e.term for e in meta_examples([ONE, TWO], beta=0)} == {"skills"}


def test_the_supervised_baseline_gets_the_same_labels_at_full_weight() -> None:
    examples = answer_examples([ONE, OTHER_DRAFT, TWO])
    assert [learnt(e) for e in examples] == [[("s1", 1.0)], [("s2", 1.0)]]


def test_a_round_learns_the_refinement_and_nothing_else() -> None:
    (example,) = self_examples([Judged("1", "p", "draft", "critique", "better", "Verdict: qualified")])
    assert (example.turns, example.weights, example.term) == (("p", "better"), (1.0,), "self")


@pytest.mark.parametrize("make", [lambda rows: meta_examples(rows, 1.0), answer_examples, self_examples])
def test_no_rows_no_examples(make: object) -> None:
    assert callable(make)
    assert make([]) == []


@given(
    st.lists(st.builds(Refined, *[st.text(max_size=3)] * 5), max_size=6),
    st.floats(0, 2, allow_nan=False),
)
def test_every_example_is_a_conversation_with_a_weight_per_answer(rows: list[Refined], beta: float) -> None:
    examples = meta_examples(rows, beta)
    assert sum(e.term == "skills" for e in examples) == len(rows)
    assert sum(e.term == "answer" for e in examples) == (len({row.prompt for row in rows}) if beta > 0 else 0)
    for example in examples:
        assert len(example.turns) == 2 * len(example.weights)
        assert any(weight > 0 for weight in example.weights)


def test_an_id_tells_weights_and_terms_apart() -> None:
    """Ids name the lineage of a model: one trained with another beta must not pass for it."""
    ids = [
        *(e.id for e in meta_examples([ONE], beta=0.5)),
        *(e.id for e in answer_examples([ONE])),
        *(e.id for e in self_examples([Judged("1", "p1", "r1", "f1", "s1", "v")])),
    ]
    assert len(set(ids)) == len(ids) == 4


def test_a_conversation_is_trained_behind_its_system_prompt_and_its_earlier_turns() -> None:
    """Earlier answers are never in the loss: somebody else may have written them."""
    context = {"system": "Be brief.", "history": ("q0", "a0")}
    row = Judged("1", "p", "r", "f", "s", "v", system="Be brief.", history=("q0", "a0"))
    trajectory, answer = meta_examples([row], beta=0.5)
    assert trajectory.turns == ("q0", "a0", "p", "r", ASK_CRITIQUE, "f", ASK_REFINE, "s")
    assert learnt(trajectory) == [("f", 1.0), ("s", 1.0)]
    assert (answer.turns, learnt(answer)) == (("q0", "a0", "p", "s"), [("s", 0.5)])
    [own], [pair], [prompt] = self_examples([row]), preference_examples([row]), prompt_examples([row])
    assert (own.turns, learnt(own)) == (("q0", "a0", "p", "s"), [("s", 1.0)])
    assert (pair.turns, learnt(pair), pair.rejected) == (("q0", "a0", "p", "s"), [("s", 1.0)], "r")
    assert prompt.turns == ("q0", "a0", "p")
    assert {e.system for e in (trajectory, answer, own, pair, prompt)} == {context["system"]}


def test_prompts_that_differ_in_their_system_prompt_are_each_answered() -> None:
    rows = [Refined("1", "p", "r", "f", "s", system=system) for system in ("", "a", "b")]
    assert [e.system for e in answer_examples(rows)] == ["", "a", "b"]
    assert len({e.id for e in answer_examples(rows)}) == 3
