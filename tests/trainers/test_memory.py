"""The memory of a training: attention without squares, smaller micro-batches where it is short, what was taken."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MistralConfig

from selfevo.errors import TrainingError
from selfevo.method.records import Example
from selfevo.rundir.atomic_files import CURVE
from selfevo.trainers import attention, memory, sft
from selfevo.trainers.attention import FusedWhereLong, attention_for, fused_is_right
from selfevo.trainers.gates import lean_gates
from selfevo.trainers.loss import labelled_loss, logits_at
from selfevo.trainers.memory import PeakMemory, free_memory_of_cpu, halved
from trainings import EXAMPLES, config, state, train

SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    ("shape", "right"),
    [
        (LlamaConfig(**SHAPE), True),
        (MistralConfig(**SHAPE, sliding_window=8), True),
        (GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4), True),
        (Gemma2Config(**SHAPE, head_dim=8, attn_logit_softcapping=0.01), False),
    ],
)
def test_fused_attention_is_taken_where_it_gives_the_same(shape: Any, right: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape, attn_implementation="eager")
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.5)
    ids = torch.randint(100, (60,)).tolist()
    assert fused_is_right(model, ids) == right
    assert model.config._attn_implementation == "eager"
    assert model.training


def test_a_long_batch_has_no_mask_and_the_same_gradients(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="eager")
    ids, mask = torch.randint(3, 200, (3, 30)), torch.ones((3, 30), dtype=torch.long)
    mask[1, 12:] = mask[2, 29:] = 0
    found = []
    for long in (30, 29):
        monkeypatch.setattr(attention, "LONG", long)
        model.config._attn_implementation = "eager"
        given = FusedWhereLong(model).mask(mask)
        assert (given is None) == (long == 29)
        model.zero_grad()
        logits = logits_at(model, ids, given, mask[:, 1:] > 0, True)
        torch.autograd.backward(logits.square().mean())
        found.append([logits.detach(), *(each.grad for each in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert float((one - other).norm()) <= 1e-5 * float(one.norm())


@pytest.mark.parametrize("packing", [False, True])
def test_short_and_long_batches_train_as_before(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    settings: dict[str, Any] = {"packing": packing, "max_length": 64}
    whole = train(tiny_model, tmp_path / "a", attn_implementation="eager", **settings)
    monkeypatch.setattr(attention, "LONG", 24)
    fused = train(tiny_model, tmp_path / "b", **settings)
    assert fused["loss_first"] == pytest.approx(whole["loss_first"], rel=1e-5)
    for name, each in state(tmp_path / "a" / "out").items():
        torch.testing.assert_close(state(tmp_path / "b" / "out")[name], each, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("adapters", [False, True])
def test_gates_are_computed_again_with_the_same_gradients(adapters: bool) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
    if adapters:
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.randint(100, (2, 9))

    def step(active: bool) -> tuple[int, dict[str, torch.Tensor]]:
        kept: list[torch.Size] = []

        def pack(each: torch.Tensor) -> torch.Tensor:
            kept.append(each.shape)
            return each

        model.zero_grad()
        with lean_gates(model, active):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
                loss = model(input_ids=ids).logits.square().sum()
            torch.autograd.backward(loss)
        gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        return kept.count(torch.Size((2, 9, 48))), gradients

    (many, plain), (few, lean) = step(False), step(True)
    assert few < many
    for name, each in plain.items():
        assert torch.equal(lean[name], each), name
    assert not any("forward" in vars(part) for part in model.modules())


def test_a_gate_of_another_kind_stays_as_it_is() -> None:
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
    kind = type(model.model.layers[0].mlp)

    class Scaled(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: torch.Tensor) -> Any:
            return 2 * super().forward(x)

    model.model.layers[0].mlp.__class__ = Scaled
    with lean_gates(model):
        assert ["forward" in vars(layer.mlp) for layer in model.model.layers] == [False, True]


def test_the_attention_for_a_length() -> None:
    assert attention_for(None, "cpu", 256) == "eager"
    assert attention_for(None, "cpu", 257) == attention_for(None, "cuda", 16) == "sdpa"
    assert attention_for("eager", "cpu", 4096) == "eager"


@pytest.mark.parametrize(
    ("size", "accumulated", "wanted"), [(8, 1, (4, 2)), (6, 2, (3, 4)), (9, 1, (3, 3)), (5, 1, (1, 5))]
)
def test_smaller_micro_batches_make_the_same_global_batch(size: int, accumulated: int, wanted: tuple[int, int]) -> None:
    smaller = halved(config(per_device_train_batch_size=size, gradient_accumulation_steps=accumulated))
    assert smaller
    assert (smaller.per_device_train_batch_size, smaller.gradient_accumulation_steps) == wanted
    assert halved(config(per_device_train_batch_size=1)) is None


def rows_of(count: int) -> Sequence[Example]:
    return [Example(str(i), (f"Sort: {i} 1" + " 2" * (i % 5), f"1 {i}"), (1.0,), "self") for i in range(count)]


def test_where_memory_is_short_the_same_batches_are_accumulated(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"per_device_train_batch_size": 8, "num_train_epochs": 2}
    plain = train(tiny_model, tmp_path / "a", rows_of(21), **settings)
    monkeypatch.setattr(memory, "needed", lambda base, config, *_: config.per_device_train_batch_size * 2**30)
    monkeypatch.setattr(memory, "free_memory_of_cpu", lambda: 3 * 2**30)
    with caplog.at_level(logging.WARNING):
        smaller = train(tiny_model, tmp_path / "b", rows_of(21), **settings)
    [line] = [record.getMessage() for record in caplog.records if "accumulated" in record.getMessage()]
    assert "3.0 GiB of memory are free, too little for micro-batches of 8" in line
    assert "it takes 4 accumulated ones of 2, and the global batch stays" in line
    assert plain["steps"] == smaller["steps"] == 6
    curves = [
        [json.loads(each)["loss"] for each in (tmp_path / name / "out" / CURVE).read_text().splitlines()]
        for name in "ab"
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    # What it began with decides when it goes on, however much is free by then.
    monkeypatch.setattr(memory, "free_memory_of_cpu", lambda: 2**50)
    chosen = memory.fitting(
        tiny_model, config(per_device_train_batch_size=8), None, [], torch.float32, tmp_path / "b/work"
    )
    assert chosen.per_device_train_batch_size == 2


def test_where_not_even_one_row_fits_the_training_does_not_begin(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "needed", lambda *_: 2**34)
    monkeypatch.setattr(memory, "free_memory_of_cpu", lambda: 2**33)
    with pytest.raises(TrainingError, match=r"needs about 16\.0 GiB .* even for one row .* 8\.0 GiB are free; set"):
        train(tiny_model, tmp_path)


def test_when_the_device_runs_out_of_memory_it_goes_on_with_smaller_micro_batches(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loss = labelled_loss

    def short(model: Any, ids: torch.Tensor, *arguments: Any) -> Any:
        if len(ids) > 1 and model.training:
            raise torch.OutOfMemoryError
        return loss(model, ids, *arguments)

    monkeypatch.setattr(sft, "labelled_loss", short)
    with caplog.at_level(logging.WARNING):
        figures = train(tiny_model, tmp_path, [*EXAMPLES, *EXAMPLES[:1]], per_device_train_batch_size=4)
    assert figures["steps"] == 1
    lines = [record.getMessage() for record in caplog.records if "ran out of memory" in record.getMessage()]
    assert [line.split("; ")[1].split(",")[0] for line in lines] == [
        "it takes 2 accumulated ones of 2",
        "it takes 4 accumulated ones of 1",
    ]
    monkeypatch.setattr(sft, "labelled_loss", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(TrainingError, match="out of memory"):
        train(tiny_model, tmp_path / "b", per_device_train_batch_size=1)


def test_the_peak_is_in_the_figures(tiny_model: Path, tmp_path: Path) -> None:
    figures = train(tiny_model, tmp_path)
    assert 0.05 < figures["peak_memory_gib"] < 64


def test_a_peak_is_counted_from_now_on() -> None:
    del (block := torch.ones(2**26)).grad
    del block
    peak = PeakMemory(torch.device("cpu"))
    before = peak.bytes()
    assert before <= psutil.Process().memory_info().rss + 2**26
    block = torch.ones(2**26)
    assert peak.bytes() >= before + 2**27
    del block


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 1000),
        ({"memory.max": "max", "memory.current": "5"}, 1000),
        ({"memory.max": "600", "memory.current": "500", "memory.stat": "anon 1\n"}, 100),
        ({"memory.max": "600", "memory.current": "500", "memory.stat": "anon 1\ninactive_file 50\n"}, 150),
        ({"memory.max": "600", "memory.current": "700", "memory.stat": ""}, 0),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"}, 1000),
        (
            {
                "memory/memory.limit_in_bytes": "30",
                "memory/memory.usage_in_bytes": "10",
                "memory/memory.stat": "total_inactive_file 7\n",
            },
            20,
        ),
    ],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], free: int
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory_of_cpu() == free


def test_the_need_is_a_bound_where_much_is_free_and_else_an_estimate(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    rows = [{"length": 40, "weights": [0.0] * 20 + [1.0] * 20}] * 8
    settings = config(per_device_train_batch_size=8)
    bound, need = (memory.needed(tiny_model, settings, model, rows, torch.float32, free) for free in (2**40, 0))
    assert 0 < need < bound
    smaller = config(per_device_train_batch_size=2)
    assert memory.needed(tiny_model, smaller, model, rows, torch.float32, 0) < need
