"""vLLM against transformers, on the tiny model. Needs the environment of requirements-vllm.txt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from selfevo.engines.transformers import TransformersEngine
from selfevo.engines.vllm import VLLMEngine
from selfevo.errors import EngineError, MissingExtraError
from selfevo.protocols import Request, Sampling

REQUESTS = [Request((f"question {i} " + "word " * (i % 5),), i) for i in range(12)]


def test_where_it_is_missing_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.engines.vllm.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install -r requirements-vllm\.txt"):
        VLLMEngine()


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLMEngine]:
    pytest.importorskip("vllm")
    made = VLLMEngine(dtype="float32", kv_cache_gib=1)
    yield made
    made.release()


def test_it_writes_what_transformers_writes(engine: VLLMEngine, tiny_model: Path) -> None:
    greedy = Sampling(12)
    expected = TransformersEngine(dtype="float32", device="cpu").generate(tiny_model, REQUESTS, greedy)
    got = engine.generate(tiny_model, REQUESTS, greedy)
    assert [(g.finish, g.prompt_tokens) for g in got] == [(g.finish, g.prompt_tokens) for g in expected]
    same = sum(a.text == b.text for a, b in zip(got, expected, strict=True))
    assert same >= len(REQUESTS) - 1, "but for a tie in the last bit"


def test_a_prompt_that_does_not_fit_is_set_aside(engine: VLLMEngine, tiny_model: Path) -> None:
    got = engine.generate(tiny_model, [REQUESTS[0], Request(("word " * 9000,), 0)], Sampling(4))
    assert [g.finish == "overlong" for g in got] == [False, True]


def test_sampling_repeats_itself(engine: VLLMEngine, tiny_model: Path) -> None:
    warm = Sampling(8, temperature=1.0)
    first, second = (engine.generate(tiny_model, REQUESTS, warm) for _ in range(2))
    assert first == second


def test_another_model_is_another_process_and_a_bad_one_is_named(
    engine: VLLMEngine, tiny_model: Path, tmp_path: Path
) -> None:
    engine.generate(tiny_model, REQUESTS[:1], Sampling(2))
    before = engine._process.pid
    engine.release()
    engine.generate(tiny_model, REQUESTS[:1], Sampling(2))
    assert engine._process.pid != before
    for path in tiny_model.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EngineError, match="cannot load a model from"):
        engine.generate(tmp_path, REQUESTS[:1], Sampling(2))
