"""The engine and the loss on every causal architecture that transformers can make tiny."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import build, names
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfevo.engines.transformers import TransformersEngine
from selfevo.method.protocols import Request, Sampling
from selfevo.models.chat_template import Chat
from selfevo.trainers.loss import logits_at, short_way_is_right

PROMPTS = [("sort 12 7 " * length + str(length)).strip() for length in (1, 4, 9, 2)]
LIMIT = 6

pytestmark = pytest.mark.slow


def built(name: str, tokenizer: Any) -> Any:
    try:
        return build(name, len(tokenizer), tokenizer.eos_token_id)
    except Exception as error:
        pytest.skip(f"{name} is not made tiny here: {str(error).strip() or type(error).__name__}"[:200])


def generated(model: Any, chat: Chat, turns: tuple[str, ...]) -> str:
    """The text that transformers' own generate writes for one prompt alone."""
    ids = torch.tensor([chat.prompt(turns)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LIMIT, do_sample=False)
    new = out[0, ids.shape[1] :].tolist()
    return chat.text(new[: new.index(chat.stop_id)] if chat.stop_id in new else new)


@pytest.mark.parametrize("name", names())
def test_the_engine_writes_what_generate_writes(
    name: str, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompts of four lengths in one batch, then longer conversations whose beginning has been computed."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    built(name, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # Some kinds of model have a tokenizer class of their own, so it is not the one that was saved.
    chat, engine = Chat(AutoTokenizer.from_pretrained(tmp_path)), TransformersEngine(4, "float32", "cpu")
    conversations = [(prompt,) for prompt in PROMPTS]
    try:
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32").eval()
        wanted = [generated(model, chat, turns) for turns in conversations]
    except Exception as error:
        pytest.skip(f"transformers cannot load or generate with {name} either: {error}"[:200])
    with caplog.at_level(logging.WARNING):
        got = engine.generate(tmp_path, [Request(turns, 0) for turns in conversations], Sampling(LIMIT))
    assert [generation.text for generation in got] == wanted
    assert ("one prompt at a time" in caplog.text) == (engine._batching is None)
    longer = [(prompt, text or "?", "again") for prompt, text in zip(PROMPTS, wanted, strict=True)]
    got = engine.generate(tmp_path, [Request(turns, 0) for turns in longer], Sampling(LIMIT))
    assert [generation.text for generation in got] == [generated(model, chat, turns) for turns in longer]


@pytest.mark.parametrize("name", names())
def test_the_logits_of_the_loss_are_those_of_the_model(name: str, tiny_model: Path) -> None:
    """For two sequences of different length, padded on the right."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = built(name, tokenizer)
    ids = torch.randint(3, len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    labelled = (mask[:, 1:] > 0) & (torch.arange(39) > 10)
    try:
        with torch.no_grad():
            whole = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][labelled]
    except Exception as error:
        pytest.skip(f"transformers cannot compute a loss with {name} either: {error}"[:200])
    with torch.no_grad():
        got = logits_at(model, ids, mask, labelled, short_way_is_right(model, ids[0].tolist()))
    torch.testing.assert_close(got, whole, atol=1e-3, rtol=1e-3)


def test_at_least_a_hundred_architectures_are_built(tiny_model: Path) -> None:
    tokenizer, count = AutoTokenizer.from_pretrained(tiny_model), 0
    for name in names():
        with contextlib.suppress(Exception):
            build(name, len(tokenizer), tokenizer.eos_token_id)
            count += 1
    assert count >= 100
