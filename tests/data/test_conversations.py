"""What a row asks, in every layout that people keep conversations in, and what cannot be asked, with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.data.conversations import Conversation, read_conversation, read_prompt, text_fault
from selfevo.method.records import Prompt, as_row

TALK = Prompt.of("And in Spanish?", system="Be brief.", history=("Say hello in French.", "Bonjour."))
PLAIN = Prompt.of("Say hello in French.")


def openai(prompt: Prompt, answer: str = "") -> list[dict[str, Any]]:
    turns = [*prompt.history, prompt.prompt, *([answer] if answer else [])]
    said = [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]
    return [{"role": "system", "content": prompt.system}, *said] if prompt.system else said


def sharegpt(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


def parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


MESSAGES = openai(TALK)
ROWS: dict[str, dict[str, Any]] = {
    "OpenAI": {"messages": MESSAGES},
    "OpenAI, finished": {"messages": openai(TALK, "Hola.")},
    "OpenAI, a place for the answer": {"messages": [*MESSAGES, {"role": "assistant", "content": ""}]},
    "OpenAI, an empty system prompt, and one beside": {
        "messages": [{"role": "system", "content": ""}, *MESSAGES[1:]], "system": "Be brief.",
    },
    "OpenAI, developer": {"messages": [{"role": "developer", "content": "Be brief."}, *MESSAGES[1:]]},
    "OpenAI, more keys": {"messages": [{**message, "name": "x", "tool_calls": None} for message in MESSAGES]},
    "parts": {"messages": parts(MESSAGES)},
    "parts of a server": {
        "messages": [{**m, "content": [{"type": "input_text", "text": m["content"], "image": None}]} for m in MESSAGES]
    },
    "a system prompt beside": {"messages": MESSAGES[1:], "system": " Be brief. "},
    "the same twice": {"messages": MESSAGES, "system": "Be brief."},
    "TRL": {"prompt": MESSAGES},
    "TRL with completion": {"prompt": MESSAGES, "completion": [{"role": "assistant", "content": "Hola."}]},
    "TRL preference": {"prompt": MESSAGES, "chosen": [{"role": "assistant", "content": "Hola."}], "rejected": []},
    "ShareGPT": {"id": "x_0", "conversations": sharegpt(MESSAGES)},
    "ShareGPT, finished": {"conversations": sharegpt(openai(TALK, "Hola."))},
    "ShareGPT, system beside": {"system": "Be brief.", "conversations": sharegpt(MESSAGES[1:])},
    "ShareGPT, columns of lists": {
        "conversations": {"from": ["system", "human", "gpt", "human"], "value": list(TALK.conversation)}
    },
    "conversation": {"conversation": MESSAGES, "turn": 2},
    "as JSON": {"messages": json.dumps(MESSAGES)},
    "prompt as JSON": {"prompt": json.dumps(MESSAGES)},
    "text": {"prompt": "And in Spanish?", "system": "Be brief.", "history": list(TALK.history)},
    "text and pairs": {"prompt": "And in Spanish?", "system_prompt": "Be brief.", "history": [list(TALK.history)]},
    "text and JSON": {"prompt": "And in Spanish?", "system": "Be brief.", "history": json.dumps(TALK.history)},
    "Alpaca": {
        "instruction": "And in Spanish?", "input": "", "output": "Hola.", "system": "Be brief.",
        "history": [list(TALK.history)],
    },
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_layout_of_a_conversation_is_the_same_prompt(row: dict[str, Any]) -> None:
    assert read_prompt(row) == TALK


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_columns_that_a_table_holds_for_other_rows_change_nothing(row: dict[str, Any]) -> None:
    """In parquet, and where files of a folder differ, a row has every column, and None where it has no value."""
    columns = ("prompt", "messages", "conversations", "conversation", "instruction", "input", "turns", "system")
    assert read_prompt(dict.fromkeys((*columns, "history", "tools", "images")) | row) == TALK


@pytest.mark.parametrize(
    ("row", "layout", "columns", "left_off"),
    [
        ({"prompt": "p"}, "text", ("prompt",), ""),
        ({"Prompt": "p", "System": "s"}, "text", ("Prompt", "System"), ""),
        ({"prompt": "p", "system": " ", "history": []}, "text", ("prompt",), ""),
        ({"prompt": "p", "history": "of a patient"}, "text", ("prompt",), ""),
        ({"messages": openai(TALK, "a")}, "messages", ("messages",), "the assistant's turn at the end"),
        ({"conversations": sharegpt(openai(TALK))}, "ShareGPT", ("conversations",), ""),
        ({"instruction": "Add.", "input": "1 2", "system": "s"}, "Alpaca", ("instruction", "input", "system"), ""),
        ({"turns": ["Write.", "Rewrite."]}, "turns", ("turns",), "the turns after the first"),
        ({"turns": ["Write."]}, "turns", ("turns",), ""),
        ({"turns": [{"content": "Write."}]}, "turns", ("turns",), ""),
        ({"turns": openai(TALK)}, "messages", ("turns",), ""),
        ({"instruction": "Why?", "context": "It rains.", "response": "r"}, "Alpaca", ("instruction", "context"), ""),
        ({"messages": openai(TALK), "conversations": None}, "messages", ("messages",), ""),
        (
            {"prompt": "p", "messages": openai(TALK)}, "text", ("prompt",),
            "column 'messages' (it differs from 'prompt')",
        ),
        ({"prompt": "p", "messages": [{"role": "user", "content": " p"}]}, "text", ("prompt",), ""),
        ({"prompt": "p", "messages": "a text about messages"}, "text", ("prompt",), ""),
        (
            {"prompt": "p", "conversations": [{"from": "bing", "value": "p"}]}, "text", ("prompt",),
            "column 'conversations' (it differs from 'prompt')",
        ),
        (
            {"messages": openai(TALK), "conversations": sharegpt(openai(PLAIN))}, "messages", ("messages",),
            "column 'conversations' (it differs from 'messages')",
        ),
        ({"messages": openai(TALK), "conversations": sharegpt(openai(TALK))}, "messages", ("messages",), ""),
        ({"prompt": "p", "system": "", "system_prompt": "s"}, "text", ("prompt", "system_prompt"), ""),
        ({"instruction": "Why?", "input": "", "context": "It rains."}, "Alpaca", ("instruction", "context"), ""),
    ],
)  # fmt: skip
def test_it_says_what_it_was_read_as(row: dict[str, Any], layout: str, columns: tuple[str, ...], left_off: str) -> None:
    read = read_conversation(row)
    assert isinstance(read, Conversation)
    assert (read.layout, read.columns, read.left_off) == (layout, columns, left_off)


def test_a_system_prompt_beside_the_column_that_was_read_is_said() -> None:
    """As in no_robots: the prompt is the first turn, the messages have a system prompt and more turns."""
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p"}]
    read = read_conversation({"prompt": "p", "messages": talk})
    assert isinstance(read, Conversation)
    assert (read.prompt, read.beside) == (Prompt.of("p"), "messages")
    assert read_prompt({"prompt": "p", "messages": talk}, "messages") == Prompt.of("p", system="Be brief.")


def test_a_column_can_be_named() -> None:
    assert read_prompt({"question": "p", "prompt": "q", "system_prompt": "s"}, "question") == Prompt.of("p", system="s")
    assert read_prompt({"prompt": "q", "chat": MESSAGES}, "chat") == TALK
    assert read_prompt({"prompt": "q", "messages": MESSAGES}, "messages") == TALK
    assert read_prompt({"instruction": "Add.", "input": "1 2"}, "instruction") == Prompt.of("Add.\n\n1 2")
    assert read_prompt({"conversation": "Two people talk."}, "conversation") == Prompt.of("Two people talk.")
    assert read_prompt({"messages": MESSAGES}, "chat") == "column 'chat' is missing; the row has 'messages'"


def test_a_system_prompt_for_all_is_for_rows_without_one() -> None:
    assert read_prompt({"prompt": "p"}, system="s") == Prompt.of("p", system="s")
    assert read_prompt({"prompt": "p", "system": ""}, system="s") == Prompt.of("p", system="s")
    assert read_prompt({"prompt": "p", "system": "t"}, system="s") == Prompt.of("p", system="t")
    assert read_prompt({"messages": MESSAGES}, system="s") == TALK
    assert read_prompt({"messages": MESSAGES[1:]}, system="Be brief.") == TALK


def test_rows_that_differ_in_their_system_prompt_are_two_prompts() -> None:
    prompts = [read_prompt({"prompt": "p", "system": system}) for system in ("", "a", "b")]
    assert len({prompt.id for prompt in prompts if isinstance(prompt, Prompt)}) == 3


USER, ASSISTANT = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
IMAGE = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER, CALL, {"role": "tool", "content": "42"}, USER]}, "message 2 is a tool's, or calls one"),
        ({"messages": [USER, ASSISTANT, {"role": "tool", "content": "42"}]}, "message 3 is a tool's, or calls one"),
        ({"conversations": [{"from": "human", "value": "u"}, {"from": "function_call", "value": "f()"}]}, "message 2"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "column 'tools' has tools, which are not asked here"),
        ({"messages": [USER], "tools": '[{"type": "function"}]'}, "column 'tools' has tools"),
        ({"messages": [IMAGE]}, "message 1 has a part of type 'image_url'; only parts of text can be asked"),
        ({"prompt": "<image>", "images": ["a.png"]}, "column 'images' holds what is no text"),
        ({"conversations": [{"from": "human", "value": "<image>\nWhat?"}], "image": "a.png"}, "column 'image' holds"),
        ({"messages": [USER, USER]}, "messages 1 and 2 are both the user's; join them to one"),
        ({"messages": [USER, ASSISTANT, ASSISTANT, USER]}, "messages 2 and 3 are both the assistant's"),
        ({"messages": [ASSISTANT, USER]}, "message 1 is the assistant's; a conversation begins with the user"),
        ({"messages": [MESSAGES[0], ASSISTANT, USER]}, "message 2 is the assistant's; a conversation begins with"),
        ({"messages": [USER, ASSISTANT, MESSAGES[0], USER]}, "message 3 is a system prompt; only the first message"),
        ({"messages": [MESSAGES[0], MESSAGES[0], USER]}, "message 2 is a system prompt"),
        ({"messages": [{"role": "system", "content": ""}, ASSISTANT, USER]}, "message 2 is the assistant's"),
        ({"messages": [{"role": "system", "content": ""}, USER, USER]}, "messages 2 and 3 are both the user's"),
        ({"messages": [{"role": "system", "content": ""}, MESSAGES[0], ASSISTANT]}, "message 3 is the assistant's"),
        ({"messages": [{"role": "system", "content": ""}]}, "the messages hold no turn of the user"),
        ({"messages": [MESSAGES[0]]}, "the messages hold no turn of the user"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "the messages hold no turn of the user"),
        ({"messages": [USER, {"role": "critic", "content": "c"}]}, "message 2 has the role 'critic'; known are system"),
        ({"messages": [USER, {"content": "c"}]}, "message 2 has the role None"),
        ({"messages": [{"role": "user", "content": 7}]}, "message 1 holds int, not text"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1 is empty"),
        ({"messages": [{"role": "user", "content": []}]}, "message 1 is empty"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, "message 1 holds a NUL character"),
        ({"messages": [{"role": "user", "content": [7]}]}, "message 1 has a part of type 'int'"),
        ({"messages": ["hi"]}, "message 1 is str, not an object with role and content"),
        ({"messages": []}, "column 'messages' is empty"),
        ({"messages": "hi"}, "column 'messages' holds text, not a list of messages"),
        ({"prompt": "[{'role': 'user', 'content': 'u'}]"}, "messages are written in Python's form; write them as JSON"),
        ({"prompt": ["a"]}, "message 1 is str"),
        ({"prompt": 7}, "column 'prompt' holds int, not text or a list of messages"),
        ({"turns": []}, "column 'turns' is empty"),
        ({"turns": [""]}, "turn 1 is empty"),
        ({"turns": [{"text": "a"}]}, "turn 1 holds NoneType, not text"),
        ({"turns": [[]]}, "turn 1 holds list, not text"),
        ({"conversation": [{"input": "a", "output": "b"}]}, "message 1 has the role None"),
        ({"conversations": {"from": ["human"], "value": []}}, "the lists from, value of the messages differ in length"),
        ({"conversations": {"role": 1}}, "column 'conversations' holds dict, not text or a list of messages"),
        ({"messages": [[USER]]}, "message 1 is list, not an object"),
        ({"messages": [USER, {"role": "assistant", "content": "a", "function_call": {"name": "f"}}]}, "message 2 is a"),
        ({"messages": [USER, {"role": "assistant", "content": {"text": "a"}}]}, "message 2 holds dict, not text"),
        ({"messages": [{"role": ["user"], "content": "u"}]}, "message 1 has the role ['user']"),
        ({"messages": [{"from": "human", "value": None}]}, "message 1 is empty"),
        ({"instruction": 3}, "column 'instruction' holds int"),
        ({"instruction": "Add.", "input": ["1"]}, "column 'input' holds list, not text"),
        ({"prompt": "p", "system": 7}, "column 'system' holds int, not text"),
        ({"prompt": "p", "system": "a\ud800"}, "column 'system' holds half a surrogate pair"),
        ({"prompt": "p", "history": "[['u', 'a']]"}, "column 'history' is no JSON list; write its turns as JSON"),
        ({"messages": [USER], "history": ["u", "a"]}, "column 'history' stands beside a list of messages"),
        ({"turns": ["a"], "history": [["u", "a"]]}, "column 'history' stands beside a list of messages"),
        ({"prompt": "p", "history": ["u"]}, "column 'history' has 1 turns; give pairs"),
        ({"prompt": "p", "history": ["u", 7]}, "turn 2 of column 'history' holds int, not text"),
        ({"prompt": "p", "system": "a", "system_prompt": "b"}, "columns 'system' and 'system_prompt' differ"),
        ({"prompt": "\u200b"}, "column 'prompt' holds nothing that can be seen"),
        ({"messages": MESSAGES, "system": "Be long."}, "column 'system' and the messages have two system prompts"),
        ({"x": 1}, "column 'prompt' is missing; the row has 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_has_a_reason(row: dict[str, Any], reason: str) -> None:
    found = read_prompt(row)
    assert isinstance(found, str) and reason in found


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3]",
        '[{"from": "Berlin", "to": "Rome"}]',
        '["a", "b"]',
        "[{x}]",
        "[",
        "[]",
        '{"role": "user"}',
        "[" * 9999,
    ],
)
def test_a_text_that_only_looks_like_a_list_stays_a_text(text: str) -> None:
    assert read_prompt({"prompt": text}) == Prompt.of(text)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text_fault(text) is None and text.strip()[0] != "["
)
KEY = st.sampled_from(["role", "content", "from", "value", "x"])
VALUE = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5), st.sampled_from([USER, ASSISTANT, CALL, IMAGE])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner),
    max_leaves=12,
)
NAME = st.sampled_from(["prompt", "messages", "conversations", "turns", "instruction", "input", "system", "history"])


@given(st.dictionaries(NAME, VALUE))
def test_any_row_is_a_prompt_or_a_reason(row: dict[str, Any]) -> None:
    found = read_conversation(row)
    if isinstance(found, str):
        assert found and "\n" not in found
        return
    assert found.prompt == Prompt.of(found.prompt.prompt, system=found.prompt.system, history=found.prompt.history)
    assert all(text.strip() for text in (*found.prompt.history, found.prompt.prompt))


@given(TEXT, st.one_of(st.just(""), TEXT), st.lists(st.tuples(TEXT, TEXT), max_size=3))
def test_what_a_run_writes_is_read_as_the_same_prompt(text: str, system: str, pairs: list[tuple[str, str]]) -> None:
    prompt = Prompt.of(text, system=system, history=tuple(turn.strip() for pair in pairs for turn in pair))
    assert read_prompt(json.loads(json.dumps(as_row(prompt)))) == prompt


@given(st.lists(TEXT, min_size=1, max_size=6), st.one_of(st.just(""), TEXT))
def test_the_form_of_messages_does_not_matter(turns: list[str], system: str) -> None:
    texts = [turn.strip() for turn in turns]
    asked = texts if len(texts) % 2 else texts[:-1]
    expected = Prompt.of(asked[-1], system=system, history=tuple(asked[:-1]))
    messages = openai(Prompt("", texts[-1], history=tuple(texts[:-1])))
    given = [{"role": "system", "content": system}, *messages] if system else messages
    for row in ({"messages": given}, {"prompt": given}, {"messages": parts(given)}, {"conversations": sharegpt(given)}):
        assert read_prompt(row) == expected
        assert read_prompt({name: json.dumps(value) for name, value in row.items()}) == expected
