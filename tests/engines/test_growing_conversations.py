"""Kept states are used only where the tokens agree: templates that write past turns otherwise share less."""

from __future__ import annotations

from pathlib import Path

import pytest

import chat_templates as shapes
from chat_templates import model_with_template
from selfevo.engines.transformers import TransformersEngine
from selfevo.method.protocols import Generation, Request, Sampling

SHAPES = {
    "Qwen3 without thinking": "{% set enable_thinking = false %}" + shapes.QWEN3,
    "gpt-oss": shapes.GPT_OSS,
    "DeepSeek R1 distill": shapes.DEEPSEEK_R1,
    "Llama 2": shapes.LLAMA2,
    "ChatML": shapes.CHATML,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_conversation_that_grows_is_answered_as_if_it_were_new(tiny_model: Path, tmp_path: Path, name: str) -> None:
    model = model_with_template(tiny_model, tmp_path / "base", SHAPES[name])
    sampling = Sampling(12, temperature=1.0)

    def ask(engine: TransformersEngine, turns: tuple[str, ...], seed: int) -> list[Generation]:
        requests = [Request((f"{turns[0]} {i}", *turns[1:]), seed + i) for i in range(3)]
        return engine.generate(model, requests, sampling)

    keeping = TransformersEngine(dtype="float32", device="cpu")
    grown: tuple[str, ...] = ("Sort: 3 1 2",)
    for seed in (0, 10, 20):
        found = ask(keeping, grown, seed)
        fresh = TransformersEngine(dtype="float32", device="cpu", kv_cache_gib=0)
        assert ask(fresh, grown, seed) == found
        before, all_of_them = keeping.prefilled, fresh.prefilled
        keeping.prefilled = 0
        if seed:
            assert before < all_of_them, "the start of the conversation is not computed again"
        grown = (*grown, found[0].text or "so", "Check this answer.")
