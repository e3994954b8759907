"""Token ids are what is trained and asked: the template's frame, the words as plain text, the loss mask exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import CHAT_TEMPLATE
from selfevo.errors import DataError
from selfevo.models.chat_template import Chat, messages

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ue000\ue001"), max_size=20)
PLAIN = WORDS.map(str.strip).filter(bool)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> Chat:
    return Chat(tokenizer)


def templated(tokenizer: Any, turns: tuple[str, ...]) -> list[int]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    prompt = bool(len(turns) % 2)
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True, return_dict=False))


def test_megabytes_that_cannot_fit_are_counted_at_least_and_not_tokenised(chat: Chat) -> None:
    turns = ("word " * 2_000_000,)
    ids = chat.prompt(turns, room=512)
    assert ids == [0] * len(ids)
    assert 512 < len(ids) < len(turns[0])
    short = ("word " * 20,)
    assert chat.prompt(short, room=512) == chat.prompt(short, room=10) == chat.prompt(short)


@given(turns=st.lists(PLAIN, min_size=1, max_size=6))
def test_plain_text_gets_the_ids_of_apply_chat_template(tokenizer: Any, chat: Chat, turns: list[str]) -> None:
    expected = templated(tokenizer, tuple(turns))
    if len(turns) % 2:
        assert chat.prompt(tuple(turns)) == expected
    else:
        [(ids, _)] = chat.sequences(tuple(turns), (1.0,) * (len(turns) // 2))
        # What stands behind the last stop token teaches nothing and is left out.
        assert ids == expected[: len(ids)]
        assert tokenizer.decode(expected[len(ids) :]) == "\n"


def test_a_long_conversation_keeps_its_turns_apart(tokenizer: Any, chat: Chat) -> None:
    turns = tuple(f"turn {i}" for i in range(25))
    assert chat.prompt(turns) == templated(tokenizer, turns)


@given(turns=st.lists(WORDS, min_size=2, max_size=8).filter(lambda turns: len(turns) % 2 == 0), data=st.data())
def test_the_mask_covers_exactly_the_assistants_words_and_the_stop_token(
    chat: Chat, turns: list[str], data: st.DataObject
) -> None:
    count = len(turns) // 2
    weights = tuple(data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=count, max_size=count)))
    [(ids, loss)] = chat.sequences(tuple(turns), weights)
    assert len(ids) == len(loss)
    # The parts between stop tokens are the turns, user and assistant in turn.
    ends = [i + 1 for i, token in enumerate(ids) if token == chat.stop_id]
    assert len(ends) == len(turns)
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        words = len(chat.words(turns[i]))
        weight = weights[i // 2] if i % 2 else 0.0
        assert loss[start:end] == [0.0] * (end - start - words - 1) + [weight] * (words + 1)
        assert ids[end - words - 1 : end] == [*chat.words(turns[i]), chat.stop_id]
    assert ends[-1] == len(ids)


def test_what_is_learnt_follows_what_is_asked(chat: Chat) -> None:
    """The prompt at inference is the very beginning of the training sequence, up to the first word of the answer."""
    turns = ("p", "r", "criticise", "f", "refine", "s")
    [(ids, _)] = chat.sequences(turns, (0.0, 1.0, 1.0))
    for count in (1, 3, 5):
        asked = chat.prompt(turns[:count])
        assert ids[: len(asked)] == asked
        assert ids[len(asked) :][: len(chat.words(turns[count]))] == chat.words(turns[count])


@given(pieces=st.lists(st.one_of(WORDS, st.sampled_from(SPECIALS)), max_size=6), role=st.integers(0, 1))
def test_special_tokens_in_a_text_never_act(chat: Chat, tokenizer: Any, pieces: list[str], role: int) -> None:
    text = "".join(pieces)
    turns = ("a", text, "b", "c") if role else (text, "a", "b", "c")
    [(ids, _)] = chat.sequences(turns, (1.0, 1.0))
    [(plain, _)] = chat.sequences(("a", "a", "b", "c"), (1.0, 1.0))
    for special in tokenizer.all_special_ids:
        assert ids.count(special) == plain.count(special)
    assert not set(chat.words(text)) & set(tokenizer.all_special_ids)
    assert chat.text(chat.words(text)) == text.strip()


@pytest.mark.parametrize("special", SPECIALS)
def test_each_special_token_is_written_out_and_read_back(chat: Chat, tokenizer: Any, special: str) -> None:
    assert special in tokenizer.all_special_tokens
    assert len(chat.words(special)) > 1
    assert chat.text(chat.words(f"say {special} twice {special}")) == f"say {special} twice {special}"


def test_control_tokens_are_left_out_of_what_a_model_wrote(chat: Chat) -> None:
    assert chat.text([*chat.words("done"), chat.stop_id]) == "done"


def test_the_stop_token_is_the_one_behind_an_assistant_turn(chat: Chat, tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(chat.stop_id) == "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        # Only the last message.
        ("<|im_start|>{{ messages[-1]['content'] }}<|im_end|>", "drops or reorders turns"),
        # Assistant turns left out.
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}<|im_end|>{% endfor %}",
            "drops or reorders turns",
        ),
        ("{% for m in messages | reverse %}{{ m['content'] }}<|im_end|>{% endfor %}", "drops or reorders turns"),
        ("{% for m in messages %}{{ m['content'][:1] }}<|im_end|>{% endfor %}", "drops or reorders turns"),
        # Answers run into the next question.
        (
            "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'user' %}<|im_end|>{% endif %}{% endfor %}",
            "does not close an assistant turn",
        ),
    ],
)
def test_a_template_that_cannot_hold_a_trajectory_is_refused(tiny_model: Path, template: str, reason: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=reason):
        Chat(tokenizer).sequences(("a", "b", "c", "d"), (1.0, 1.0))


@pytest.mark.parametrize("template", [None, ""])
def test_a_tokenizer_without_a_chat_template_is_refused(tiny_model: Path, template: str | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="has no chat template; save one with the model"):
        Chat(tokenizer)


def test_a_template_with_a_system_prompt_keeps_it(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "<|im_start|>system\nBe kind.<|im_end|>\n" + tokenizer.chat_template
    chat = Chat(tokenizer)
    assert chat.prompt(("hi",)) == templated(tokenizer, ("hi",))
    assert tokenizer.decode(chat.prompt(("hi",))).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")


@given(system=PLAIN, turns=st.lists(PLAIN, min_size=1, max_size=6))
def test_a_system_prompt_stands_where_the_template_puts_it(
    tokenizer: Any, chat: Chat, system: str, turns: list[str]
) -> None:
    asked = messages(tuple(turns), system)
    expected = list(tokenizer.apply_chat_template(asked, add_generation_prompt=bool(len(turns) % 2), return_dict=False))
    if len(turns) % 2:
        assert chat.prompt(tuple(turns), system) == expected
    else:
        [(ids, weights)] = chat.sequences(tuple(turns), (1.0,) * (len(turns) // 2), system)
        [(bare, plain)] = chat.sequences(tuple(turns), (1.0,) * (len(turns) // 2))
        assert ids == expected[: len(ids)]
        assert ids[len(ids) - len(bare) :] == bare
        assert weights == [0.0] * (len(ids) - len(bare)) + plain, "a system prompt is never in the loss"


def test_a_template_without_a_place_for_a_system_prompt_says_so(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHAT_TEMPLATE.replace(
        "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
    )
    chat = Chat(other)
    assert chat.prompt(("q",))
    with pytest.raises(DataError, match="drops or reorders turns of a conversation with 1 and a system prompt"):
        chat.prompt(("q",), "Be brief.")
