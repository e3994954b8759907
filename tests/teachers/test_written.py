"""A reply is read as a person would read it: the one object that was asked for, whatever stands around it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.method.prompts import ENGLISH
from selfevo.method.verdicts import Verdict
from selfevo.teachers.written import Written, read_written, schema

PLAIN = {"feedback": "6*7 is 42.", "verdict": "not qualified", "refinement": "It is 42."}
MEANT = Written("6*7 is 42.", Verdict.NOT_QUALIFIED, "It is 42.")
OBJECT = json.dumps(PLAIN)
DRAFT = json.dumps({**PLAIN, "refinement": "It is 41."})


@pytest.mark.parametrize(
    "text",
    [
        OBJECT,
        f"  {OBJECT}\n",
        json.dumps(PLAIN, indent=2),
        f"Here it is: {OBJECT}",
        f"```json\n{OBJECT}\n```",
        f"```\n{OBJECT}\n```",
        f"```JSON {OBJECT}```",
        f"Sure.\n```json\n{OBJECT}\n```\nTell me if you need more.",
        f"<think>\nIt should be 42.\n</think>\n\n{OBJECT}",
        f"<think>\nPerhaps {DRAFT}?\n</think>\n{OBJECT}",
        f"<thinking>{DRAFT}</thinking>{OBJECT}",
        f"It should be {DRAFT}, no.\n</think>\n{OBJECT}",
        f"[THINK]{DRAFT}[/THINK]{OBJECT}",
        f"<seed:think>{DRAFT}</seed:think>{OBJECT}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{OBJECT}",
        f"With $\\frac{{1}}{{2}}$ and {{braces}} in the sentence: {OBJECT}",
        f'First {{"a": 1}}, then {OBJECT}',
        f"{OBJECT}\n{OBJECT}",
        f"[{OBJECT}]",
        f'<think time="3">{DRAFT}</think>{OBJECT}',
        f"<scratchpad>{DRAFT}</scratchpad>{OBJECT}",
        f"◁think▷{DRAFT}◁/think▷{OBJECT}",
        f"<|channel|>analysis<|message|>{DRAFT}<|channel|>final <|constrain|>json<|message|>{OBJECT}",
        f'The set {{"a", "b"}} is wrong: {OBJECT}',
        f"{OBJECT[:-1]},}}",
        OBJECT[:-1] + ', "verdict": "not qualified"}',
        f"<tool_call>{OBJECT}</tool_call>",
        f"\ufeff{OBJECT}",
        json.dumps({"name": "annotation", "arguments": PLAIN}),
        json.dumps({"annotation": PLAIN}),
        json.dumps({"score": 3, "reasoning": "...", **PLAIN}),
        json.dumps({key.title(): value for key, value in PLAIN.items()}),
        json.dumps({**PLAIN, "feedback": ["6*7 is 42."]}),
        *(
            json.dumps({**PLAIN, "verdict": verdict})
            for verdict in (
                "Not qualified.",
                "NOT QUALIFIED",
                "not_qualified",
                "not-qualified",
                "NOT_QUALIFIED",
                "**not qualified**",
                "`not qualified`",
                " not qualified ",
                "Verdict: not qualified",
                "'not qualified'",
                "not  qualified",
                "Not qualified!",
            )
        ),
    ],
)
def test_the_one_object_is_taken(text: str) -> None:
    assert read_written(text) == MEANT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is wrong.",
        "null",
        "[]",
        "{}",
        "42",
        OBJECT[:-2],
        f"{OBJECT}\n{DRAFT}",
        f"<think>{OBJECT}</think>",
        f"<think>{OBJECT} is what I would say",
        f"{DRAFT}</think>{OBJECT}",
        f'<think time="3">{OBJECT}',
        f"Draft: {DRAFT}\nFinal: {OBJECT}",
        OBJECT[:-1] + ', "verdict": "qualified"}',
        json.dumps({**PLAIN, "verdict": "maybe"}),
        json.dumps({**PLAIN, "verdict": "qualified or not qualified"}),
        json.dumps({**PLAIN, "verdict": "qualified\nnot qualified"}),
        json.dumps({**PLAIN, "verdict": None}),
        json.dumps({**PLAIN, "verdict": True}),
        json.dumps({**PLAIN, "refinement": {"answer": 42}}),
        json.dumps({**PLAIN, "feedback": [True, {}]}),
        json.dumps({"feedback": "x", "refinement": "y"}),
        '{"feedback": ' * 5000,
        '{"a":' * 100_000,
        "{" * 100_000,
        '{"feedback": ' + "[" * 100_000,
        '{"' * 100_000,
    ],
    ids=range(27),
)
def test_what_is_not_one_object_is_not_taken(text: str) -> None:
    assert read_written(text) is None


@pytest.mark.parametrize(
    ("refinement", "meant"),
    [
        ("42", "42"),
        ("42.10", "42.10"),
        ("1e3", "1e3"),
        ("9" * 5000, "9" * 5000),
        ('"It is\n42."', "It is\n42."),
        (r'"half \ud83d of it"', "half ? of it"),
        (r'"\ud83d\ude00"', "😀"),
        ('"a\\tb"', "a\tb"),
        (r'"\(x\) is 2"', r"\(x\) is 2"),
        (r'"\boxed{42}"', r"\boxed{42}"),
        (r'"\frac{1}{2}"', r"\frac{1}{2}"),
        (r'"2 \times 3"', r"2 \times 3"),
        (r'"\text{cm}"', r"\text{cm}"),
        (r'"x \neq 3"', r"x \neq 3"),
        (r'"\right)"', r"\right)"),
        (r'"\\boxed{42}"', r"\boxed{42}"),
        (r'"one\r\ntwo\nthree\tfour \" \\ \/ \u00e9"', 'one\r\ntwo\nthree\tfour " \\ / é'),
        ('"{\\"a\\": 1} </think>"', '{"a": 1} </think>'),
    ],
)
def test_a_refinement_is_what_was_meant(refinement: str, meant: str) -> None:
    written = read_written(f'{{"feedback": "f", "verdict": "not qualified", "refinement": {refinement}}}')
    assert written == Written("f", Verdict.NOT_QUALIFIED, meant)


def test_a_qualified_response_needs_no_refinement() -> None:
    for rest in ("", ', "refinement": null', ', "refinement": ""'):
        assert read_written(f'{{"feedback": "f", "verdict": "qualified"{rest}}}') == Written("f", Verdict.QUALIFIED, "")


# Controls that LaTeX begins with are read as LaTeX; the marks of thinking are cut where they stand before an object.
WORDS = st.text(st.characters(exclude_characters="\b\f\r\t\n", exclude_categories=["Cs"]))
AROUND = st.text(st.characters(exclude_characters='{}<>"[]', exclude_categories=["Cs"]))


@given(WORDS, WORDS, st.sampled_from([Verdict.QUALIFIED, Verdict.NOT_QUALIFIED]), AROUND, AROUND, st.booleans())
def test_whatever_is_written_comes_through_whatever_stands_around_it(
    feedback: str, refinement: str, verdict: Verdict, before: str, after: str, ascii: bool
) -> None:
    row = {"feedback": feedback, "verdict": verdict.value, "refinement": refinement}
    text = f"{before}{json.dumps(row, ensure_ascii=ascii)}{after}"
    assert read_written(text) == Written(feedback, verdict, refinement)


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    read_written(text)
    assert read_written(f"<think>{text}</think>{OBJECT}") in (MEANT, None)
    read_written(OBJECT[:20] + text + OBJECT[20:])


def test_what_is_asked_for_is_what_is_read() -> None:
    assert set(schema(ENGLISH)["properties"]) == set(Written.__dataclass_fields__)
