"""vLLM against transformers, on the tiny model. Needs the environment of requirements-vllm.txt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from selfevo.engines.transformers import TransformersEngine
from selfevo.engines.vllm import VLLMEngine
from selfevo.errors import EngineError, MissingExtraError
from selfevo.method.protocols import Request, Sampling
from selfevo.models.device import load_tokenizer

REQUESTS = [Request((f"question {i} " + "word " * (i % 5),), i) for i in range(12)]


def test_where_it_is_missing_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.engines.vllm.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install -r requirements-vllm\.txt"):
        VLLMEngine()


@pytest.fixture(scope="module")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads of 64: vLLM has no kernels for smaller ones."""
    folder = tmp_path_factory.mktemp("wide-model")
    config = LlamaConfig.from_pretrained(tiny_model)
    config.hidden_size, config.head_dim = 256, 64
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLMEngine]:
    pytest.importorskip("vllm")
    made = VLLMEngine(dtype="float32", kv_cache_gib=1)
    yield made
    made.release()


def test_it_writes_what_transformers_writes(engine: VLLMEngine, wide_model: Path) -> None:
    greedy = Sampling(12)
    expected = TransformersEngine(dtype="float32", device="cpu").generate(wide_model, REQUESTS, greedy)
    got = engine.generate(wide_model, REQUESTS, greedy)
    assert [(g.finish, g.prompt_tokens) for g in got] == [(g.finish, g.prompt_tokens) for g in expected]
    same = sum(a.text == b.text for a, b in zip(got, expected, strict=True))
    assert same >= len(REQUESTS) - 1, "but for a tie in the last bit"


def test_a_prompt_that_does_not_fit_is_set_aside(engine: VLLMEngine, wide_model: Path) -> None:
    got = engine.generate(wide_model, [REQUESTS[0], Request(("word " * 9000,), 0)], Sampling(4))
    assert [g.finish == "overlong" for g in got] == [False, True]


def test_sampling_repeats_itself(engine: VLLMEngine, wide_model: Path) -> None:
    warm = Sampling(8, temperature=1.0)
    first, second = (engine.generate(wide_model, REQUESTS, warm) for _ in range(2))
    assert first == second


def test_another_model_is_another_process_and_a_bad_one_is_named(
    engine: VLLMEngine, wide_model: Path, tmp_path: Path
) -> None:
    engine.generate(wide_model, REQUESTS[:1], Sampling(2))
    before = engine._process.pid
    engine.release()
    engine.generate(wide_model, REQUESTS[:1], Sampling(2))
    assert engine._process.pid != before
    for path in wide_model.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EngineError, match="cannot load a model from"):
        engine.generate(tmp_path, REQUESTS[:1], Sampling(2))
