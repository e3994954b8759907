"""Templates of today: each labelled turn is trained behind exactly the tokens that it is asked with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

import chat_templates as shapes
from chat_templates import with_template
from selfevo.errors import DataError
from selfevo.method.records import Example
from selfevo.method.thinking import is_open, spoken
from selfevo.models.chat_template import ENDS_WITH_EOS, Chat
from selfevo.trainers.dpo import pairs
from selfevo.trainers.sft import tokenise

TRAJECTORY = ("p", "r", "criticise", "f", "refine", "s")
OFF = "{% set enable_thinking = false %}"
# (template, the token that ends a turn, what the template writes before its last answer, sequences a trajectory)
KNOWN = {
    "Qwen2.5": (shapes.QWEN25, "<|im_end|>", "", 1),
    "Qwen3": (shapes.QWEN3, "<|im_end|>", "<think>\n\n</think>\n\n", 1),
    "Qwen3 without thinking": (OFF + shapes.QWEN3, "<|im_end|>", "", 2),
    "Qwen3 thinking 2507": (shapes.QWEN3_THINKING, "<|im_end|>", "\n</think>\n\n", 2),
    "Qwen3 instruct 2507": (shapes.CHATML, "<|im_end|>", "", 1),
    "Llama 3": (shapes.LLAMA3, "<|eot_id|>", "", 1),
    "Llama 3.2": (shapes.LLAMA32, "<|eot_id|>", "", 1),
    "Llama 2": (shapes.LLAMA2, "</s>", " ", 2),
    "Gemma 2": (shapes.GEMMA2, "<end_of_turn>", "", 1),
    "Gemma 3": (shapes.GEMMA3, "<end_of_turn>", "", 1),
    "Mistral": (shapes.MISTRAL, "</s>", "", 1),
    "Phi-4": (shapes.PHI4, "<|im_end|>", "", 1),
    "SmolLM3": (shapes.SMOLLM3, "<|im_end|>", "", 1),
    "SmolLM3 without thinking": (OFF + shapes.SMOLLM3, "<|im_end|>", "", 1),
    "gpt-oss": (shapes.GPT_OSS, "<|return|>", "<|channel|>final<|message|>", 2),
    "DeepSeek R1 distill": (shapes.DEEPSEEK_R1, "<|end_of_sentence|>", "", 2),
    "Command R": (shapes.COMMAND_R, "<|END_OF_TURN_TOKEN|>", "", 1),
    "OLMo": (shapes.OLMO, "<|endoftext|>", "", 1),
}
SYSTEMLESS = {"Gemma 2"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def chat_of(tokenizer: Any, template: str) -> Chat:
    return Chat(with_template(tokenizer, template))


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_what_is_trained_follows_what_is_asked_at_once(tokenizer: Any, name: str, system: str) -> None:
    template, stop, between, count = KNOWN[name]
    chat = chat_of(tokenizer, template)
    assert chat.tokenizer.convert_ids_to_tokens(chat.stop_id) == stop
    assert chat.between == between
    if system and name in SYSTEMLESS:
        with pytest.raises(DataError, match=r"refuses a conversation with 1 and a system prompt \(No system role\)"):
            chat.prompt(("p",), system)
        return
    sequences = chat.sequences(TRAJECTORY, (0.0, 1.0, 0.5), system)
    assert len(sequences) == count
    labels = []
    for ids, loss in sequences:
        assert len(ids) == len(loss)
        assert ids[-1] == chat.stop_id, "nothing stands behind the last labelled turn"
        for start in (i for i in range(len(ids)) if loss[i] and not loss[i - 1]):
            end = next((i for i in range(start, len(ids)) if not loss[i]), len(ids))
            asked = {3: TRAJECTORY[:3], 5: TRAJECTORY[:5]}[3 if loss[start] == 1.0 else 5]
            assert ids[:start] == chat.prompt(asked, system), "the prompt is the prefix"
            text = TRAJECTORY[len(asked)]
            skipped = chat.tokenizer(chat.skipped, add_special_tokens=False)["input_ids"]
            assert ids[start:end] == [*skipped, *chat.words(text), chat.stop_id]
            labels += loss[start:end]
    one = len(chat.answer("f"))
    assert labels == [1.0] * one + [0.5] * one, "each labelled turn is trained once"


@pytest.mark.parametrize("name", KNOWN)
def test_a_prompt_has_the_tokens_of_apply_chat_template(tokenizer: Any, name: str) -> None:
    chat = chat_of(tokenizer, KNOWN[name][0])
    for turns in (("one question",), ("a", "b", "c"), ("a", "b", "c", "d", "e")):
        said = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        theirs = chat.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        if name not in ("Llama 2", "Mistral"):  # their spaces melt into the words beside them
            assert chat.prompt(turns) == list(theirs)


def test_a_trajectory_in_several_sequences_keeps_its_weights_in_training(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, OFF + shapes.QWEN3)
    example = Example("x", TRAJECTORY, (0.0, 1.0, 1.0), "skills")
    rows, dropped = tokenise(chat, [example], 512)
    assert [row["id"] for row in rows] == ["x", "x"]
    assert [sum(row["weights"]) for row in rows] == [len(chat.words("f")) + 1, len(chat.words("s")) + 1]
    assert dropped == 0
    longest = max(row["length"] for row in rows)
    assert tokenise(chat, [example], longest - 1) == ([rows[0]], 1), "a sequence that is too long is counted"


def test_preferences_are_learnt_behind_the_prompt_too(tokenizer: Any) -> None:
    for template in (OFF + shapes.QWEN3, shapes.GPT_OSS, shapes.DEEPSEEK_R1):
        chat = chat_of(tokenizer, template)
        [row], _ = pairs(chat, [Example("x", ("p", "s"), (1.0,), "preference", rejected="r")], 512)
        assert row == {
            "prompt_ids": chat.prompt(("p",)),
            "chosen_ids": chat.answer("s"),
            "rejected_ids": chat.answer("r"),
        }


@pytest.mark.parametrize("text", ["<think>Hm.</think>yes", "[THINK]Hm.[/THINK]yes", "<thinking>Hm.</thinking>yes"])
def test_thinking_that_the_prompt_opened_is_closed_with_the_same_tag(tokenizer: Any, text: str) -> None:
    chat = chat_of(tokenizer, shapes.DEEPSEEK_R1)
    assert chat.text(chat.answer(text)[:-1]) == "<think>\nHm.</think>yes"


@pytest.mark.parametrize("end", shapes.ENDLESS)
def test_a_turn_that_ends_in_ordinary_text_is_refused_or_ends_with_eos(tokenizer: Any, end: str) -> None:
    template = shapes.ENDLESS[end]
    with pytest.raises(
        DataError, match=r"ends an assistant turn with .* which is ordinary text.*set eos_token"
    ) as error:
        chat_of(tokenizer, template)
    assert "\n" not in str(error.value)
    chat = chat_of(tokenizer, ENDS_WITH_EOS + template)
    assert chat.stop_id == tokenizer.eos_token_id
    assert all(ids[-1] == chat.stop_id for ids, _ in chat.sequences(TRAJECTORY, (0.0, 1.0, 1.0)))


def test_the_role_that_follows_can_end_a_turn(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="does not close an assistant turn"):
        chat_of(tokenizer, shapes.GLM4)
    made = with_template(tokenizer, ENDS_WITH_EOS + shapes.GLM4)
    made.eos_token = "<|user|>"
    chat = Chat(made)
    [(ids, _)] = chat.sequences(TRAJECTORY, (0.0, 1.0, 1.0))
    assert made.convert_ids_to_tokens(ids[-1]) == "<|user|>"
    assert ids.count(ids[-1]) == 4, "three questions and the end"


def test_a_template_that_insists_on_a_system_prompt_works_with_one(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, shapes.INSISTS_ON_SYSTEM)
    assert chat.prompt(("p",), "Be brief.")
    with pytest.raises(DataError, match=r"\(Say who you are\); give a system prompt") as error:
        chat.prompt(("p",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content", "refuses a conversation with 2"),
        ("{{ messages[9].content }}", "refuses a conversation with 2"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}", "repeats turns"),
        ("{{ raise_exception('no\nmore') }}", r"refuses a conversation with 2 \(no more\)"),
        ("{{ 1 / 0 }}", "refuses a conversation with 2"),
    ],
)
def test_a_template_that_fails_is_one_line(tokenizer: Any, template: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        chat_of(tokenizer, template)
    assert "\n" not in str(error.value)


CONTROL = ["<think>", "</think>", "<|im_start|>", "<|return|>", "<|channel|>", "</s>", "<|eot_id|>", " ", "a", "\n"]


@pytest.mark.parametrize("name", ["Qwen3", "gpt-oss", "DeepSeek R1 distill", "Mistral"])
@given(pieces=st.lists(st.sampled_from(CONTROL), min_size=1, max_size=6))
def test_tokens_of_the_frame_are_plain_text_in_content(tokenizer: Any, name: str, pieces: list[str]) -> None:
    chat = chat_of(tokenizer, KNOWN[name][0])
    frame = set(chat.prompt(("",))) | set(chat.tokenizer.all_special_ids)
    frame |= set(chat.tokenizer(chat.between + chat.opening, add_special_tokens=False)["input_ids"])
    control = {id for id in frame if id in chat.tokenizer.added_tokens_decoder}
    text = "".join(pieces)
    assert not control & set(chat.words(text))
    assert chat.tokenizer.decode(chat.words(text)) == text.strip()
    plain, marked = chat.prompt(("x",)), chat.prompt((text,))
    assert [id for id in plain if id in control] == [id for id in marked if id in control]


@pytest.mark.parametrize("name", ["Qwen3", "Qwen3 without thinking", "Qwen3 thinking 2507", "DeepSeek R1 distill"])
@pytest.mark.parametrize("thought", ["Hm, 1 + 1.", "", "a\n\nb <think> <|im_start|> c"])
def test_thinking_that_is_kept_is_trained_as_the_model_wrote_it(tokenizer: Any, name: str, thought: str) -> None:
    chat = chat_of(tokenizer, KNOWN[name][0])
    tags = chat.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    written = [
        *([] if chat.opening else [tags[0], *chat._written("\n")]),
        *chat._written(f"{thought}\n"),
        tags[1],
        *chat._written("\n\nThe answer."),
    ]
    text = chat.text(written)
    assert text == f"<think>\n{thought}\n</think>\n\nThe answer."
    assert chat.answer(text) == [*written, chat.stop_id]
    [(ids, loss)] = chat.sequences(("p", text), (1.0,))
    assert ids == [*chat.prompt(("p",)), *written, chat.stop_id]
    assert loss == [0.0] * len(chat.prompt(("p",))) + [1.0] * (len(written) + 1)
    assert chat.prompt(("p", text, "q")) == chat.prompt(("p", "The answer.", "q")), "no later turn sees it"


def test_an_answer_without_thinking_comes_back_from_a_prompt_that_opens_it(tokenizer: Any) -> None:
    for name in ("Qwen3 thinking 2507", "DeepSeek R1 distill"):
        chat = chat_of(tokenizer, KNOWN[name][0])
        assert spoken(chat.text(chat.answer("The answer.")[:-1])) == "The answer."
        assert is_open(chat.text(chat.words("It goes on and on")))


def test_channels_of_special_tokens_are_thinking_too(tokenizer: Any) -> None:
    """What gpt-oss writes before its final channel, and tags that are special tokens."""
    chat = chat_of(tokenizer, shapes.GPT_OSS)
    read = chat.tokenizer(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>The answer.",
        add_special_tokens=False,
    )["input_ids"]
    assert spoken(chat.text(read)) == "The answer."
    assert chat.text(chat.words("The answer.")) == "The answer."
    assert chat.has_channels
    assert not any(chat_of(tokenizer, KNOWN[name][0]).has_channels for name in KNOWN if name != "gpt-oss")
    made = with_template(tokenizer, shapes.CHATML)
    made.add_tokens([AddedToken("[THINK]", special=True), AddedToken("[/THINK]", special=True)], special_tokens=True)
    chat = Chat(made)
    read = made("[THINK]Hm.[/THINK]The answer.<|im_end|>", add_special_tokens=False)["input_ids"]
    assert chat.text(read) == "[THINK]Hm.[/THINK]The answer."
    assert chat.answer(chat.text(read)) == read
