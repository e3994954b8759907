"""top_k, min_p and repetition_penalty: what transformers' processors leave is what is drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from selfevo.config.sections import EndpointConfig, SamplingConfig
from selfevo.engines.openai import OpenAIEngine
from selfevo.engines.transformers import TransformersEngine, _pick, penalised
from selfevo.errors import EngineError
from selfevo.method.protocols import Request, Sampling


@pytest.mark.parametrize(
    "options", [{"top_k": 3}, {"min_p": 0.2}, {"top_k": 8, "top_p": 0.7, "min_p": 0.15}, {"top_p": 0.6, "min_p": 0.3}]
)
def test_tokens_are_drawn_from_what_transformers_leaves(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits, sampling = torch.randn(1, 30) * 2, Sampling(5, 0.8, **options)
    scores = logits / 0.8
    scores = TopKLogitsWarper(sampling.top_k)(None, scores) if sampling.top_k else scores
    scores = TopPLogitsWarper(sampling.top_p)(None, scores) if sampling.top_p < 1 else scores
    scores = MinPLogitsWarper(sampling.min_p)(None, scores) if sampling.min_p else scores
    draws = torch.linspace(0, 0.9999, 4000)
    found = _pick(logits.expand(4000, -1), draws, sampling)
    share = torch.bincount(found, minlength=30) / 4000
    assert torch.allclose(share, torch.softmax(scores, -1)[0], atol=2e-3)


def test_the_penalty_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 20), torch.tensor([[1, 2, 2], [5, 7, 9]])
    seen = torch.zeros(2, 20, dtype=torch.bool).scatter(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(ids, logits.clone())
    found = penalised(logits, seen, Sampling(5, repetition_penalty=1.7), torch.arange(2))
    assert torch.equal(found, expected)


def test_a_text_does_not_depend_on_its_batch(tiny_model: Path) -> None:
    sampling = Sampling(12, 0.9, top_k=20, min_p=0.01, repetition_penalty=1.3)
    requests = [Request((text,), seed) for seed, text in enumerate(["Sort: 2 1", "Sort: 9 3 5 1", "Check.", "a"])]
    engine = TransformersEngine(dtype="float32", device="cpu", kv_cache_gib=0)
    together = engine.generate(tiny_model, requests, sampling)
    assert together == [engine.generate(tiny_model, [request], sampling)[0] for request in requests]


def test_greedy_text_with_a_penalty_is_that_of_generate(tiny_model: Path) -> None:
    engine = TransformersEngine(dtype="float32", device="cpu")
    sampling, request = Sampling(12, repetition_penalty=1.8), Request(("Sort: 2 1",), 0)
    chat = engine._load(tiny_model)
    ids = torch.tensor([chat.prompt(request.turns)])
    out = engine._model.generate(ids, max_new_tokens=12, do_sample=False, repetition_penalty=1.8)
    [found] = engine.generate(tiny_model, [request], sampling)
    assert found.text == chat.text([token for token in out[0, ids.shape[1] :].tolist() if token != chat.stop_id])


@pytest.mark.parametrize("options", [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}])
def test_a_server_that_cannot_take_it_is_an_error(options: dict[str, Any]) -> None:
    engine = OpenAIEngine(EndpointConfig(model="m", base_url="http://localhost:1/v1", api_key_env=None))
    with pytest.raises(EngineError, match="which the protocol of OpenAI does not have"):
        engine.generate(Path(), [Request(("a",), 0)], SamplingConfig(**options).to_sampling())
