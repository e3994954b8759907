"""Decoding in buffers of fixed size. Without a CUDA device the same steps run, only nothing is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfevo.engines.cuda import decoding
from selfevo.engines.transformers import TransformersEngine
from selfevo.method.protocols import Request, Sampling

LENGTHS = [1, 40, 3, 17, 9, 60, 2, 25, 5, 11, 33, 7, 50, 4, 21, 13]
REQUESTS = [Request((("sort 12 7 " * n + str(n)).strip(),), seed=i) for i, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def stopping(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, changed so that answers end after a few tokens or many."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.eos_token_id] *= 2
    folder = tmp_path_factory.mktemp("stopping")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def engine_of(model: Path, device: str, fixed: bool, batch_size: int = 16) -> TransformersEngine:
    engine = TransformersEngine(batch_size, dtype="float32", device=device)
    engine.generate(model, REQUESTS[:1], Sampling(1))
    assert engine._batching is not None
    engine._batching = replace(engine._batching, fixed=fixed)
    engine._memory.clear()
    return engine


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("columns", [8, 64, 256])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steps_of_fixed_size_write_the_same_texts(
    stopping: Path, monkeypatch: pytest.MonkeyPatch, device: str, columns: int, temperature: float
) -> None:
    monkeypatch.setattr(decoding, "_COLUMNS", columns)
    begun: list[int] = []
    begin = decoding.Steps._begin

    def watched(steps: decoding.Steps, rows: int) -> None:
        begun.append(rows)
        begin(steps, rows)

    monkeypatch.setattr(decoding.Steps, "_begin", watched)
    sampling = Sampling(70, temperature)
    fixed, plain = engine_of(stopping, device, True), engine_of(stopping, device, False)
    got = fixed.generate(stopping, REQUESTS, sampling)
    assert got == plain.generate(stopping, REQUESTS, sampling)
    assert {"stop", "length"} <= {generation.finish for generation in got}
    assert begun[0] == len(REQUESTS)
    assert begun[-1] <= len(REQUESTS) / 2, "no row has left the batch, so this test shows little"
    grown = [Request((*r.turns, g.text or "?", "again"), r.seed) for r, g in zip(REQUESTS, got, strict=True)]
    assert fixed.generate(stopping, grown, sampling) == plain.generate(stopping, grown, sampling)
    kept, wanted = fixed._memory._kept, plain._memory._kept
    assert {name: states.ids for name, states in kept.items()} == {name: states.ids for name, states in wanted.items()}
    assert set(kept) == {request.beginning for request in grown}


@pytest.mark.gpu
def test_a_step_is_recorded(stopping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    record = decoding._record

    def watched(step: Callable[[], None]) -> object:
        calls.append(record(step))
        return calls[-1]

    monkeypatch.setattr(decoding, "_record", watched)
    engine_of(stopping, "cuda", True).generate(stopping, REQUESTS, Sampling(40))
    assert calls
    assert None not in calls


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_by_groups_is_attention(dtype: str) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    query = torch.randn(5, 14, 1, 64, device="cuda", dtype=kind)
    key, value = (torch.randn(5, 2, 72, 64, device="cuda", dtype=kind) for _ in "kv")
    mask = torch.rand(5, 1, 1, 72, device="cuda") < 0.7
    bias = torch.zeros(mask.shape, device="cuda", dtype=kind).masked_fill_(~mask, -torch.inf)
    module = torch.nn.Module()
    got, _ = decoding._attention(module, query, key, value, bias)
    scores = query.double() @ key.double().repeat_interleave(7, 1).mT / 8
    wanted = (scores + bias.double()).softmax(-1) @ value.double().repeat_interleave(7, 1)
    assert torch.allclose(got.double(), wanted.transpose(1, 2), atol=1e-5 if dtype == "float32" else 2e-2)
