"""How much memory a training step takes is found without weights, and is what a step with weights takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import transformers
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from selfevo.config.training import Optimizer, TrainerConfig
from selfevo.errors import ConfigError
from selfevo.trainers import training_memory as module
from selfevo.trainers.adapters import lora
from selfevo.trainers.loss import labelled_loss
from selfevo.trainers.training_memory import (
    Batch,
    Live,
    active_parameters,
    count_parameters,
    skeleton,
    state_bytes,
    state_size,
    training_memory,
)

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES = {
    "GQA": transformers.LlamaConfig(**SIZES),
    "tied": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "experts": transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "GPT-2": transformers.GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=96, bos_token_id=0, eos_token_id=0),
}
BATCH = Batch(4, 24, 40)


def shape(name: str, folder: Path) -> Path:
    SHAPES[name].save_pretrained(folder)
    return folder


def need(folder: Path, batch: Batch = BATCH, shards: int = 1, **settings: Any) -> module.TrainingMemory:
    return training_memory(folder, TrainerConfig(**settings), batch, "cuda", torch.bfloat16, shards)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    folder, real = shape(name, tmp_path), AutoModelForCausalLM.from_config(SHAPES[name])
    count = sum(each.numel() for each in real.parameters())
    full = need(folder)
    assert count_parameters(skeleton(folder)) == full.parameters == full.trained == count
    assert (full.weights, full.gradients, full.optimizer) == (4 * count, 4 * count, 8 * count)
    config = TrainerConfig(lora={"r": 3})
    adapted = get_peft_model(real, lora(config, real))
    adapters = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    found = need(folder, lora={"r": 3})
    assert (found.parameters, found.trained) == (count, adapters)
    assert found.weights == 2 * count + 4 * adapters
    assert found.gradients == 4 * adapters


def test_a_token_goes_to_two_of_four_experts(tmp_path: Path) -> None:
    folder = shape("experts", tmp_path)
    experts = sum(each.numel() for name, each in skeleton(folder).named_parameters() if ".experts." in name)
    assert experts == 4 * 4 * 3 * 32 * 64
    assert active_parameters(folder) == count_parameters(skeleton(folder)) - experts / 2
    assert state_bytes(folder) == 2 * 2 * 4 * 2 * 8, "keys and values, two bytes, four layers, two heads of eight"


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "experts"])  # their step needs numbers
@pytest.mark.parametrize("settings", [{}, {"lora": {}}, {"gradient_checkpointing": True}], ids=str)
def test_a_step_with_weights_takes_as_much(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Forward and backward pass in float32 on the CPU, without what the heap keeps."""
    folder, trainer = shape(name, tmp_path), TrainerConfig(**settings, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(SHAPES[name], attn_implementation="eager")
    if trainer.lora:
        model = get_peft_model(model, lora(trainer, model))
    if trainer.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids, weights = torch.zeros(4, 24, dtype=torch.long), torch.zeros(4, 23)
    weights[:, :10] = 1
    with Live(model.train()) as live:
        labelled_loss(model, ids, torch.ones_like(ids), weights, True).backward()  # type: ignore[no-untyped-call]
    found = training_memory(folder, trainer, BATCH, "cuda", torch.float32)
    assert found.followed
    assert max(found.gradients, found.activations) + found.work == pytest.approx(live.peak, rel=0.1)


@pytest.mark.parametrize("settings", [{}, {"lora": {}}], ids=str)
def test_what_a_second_layer_adds_every_further_one_adds(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shape("GQA", tmp_path)
    grown = need(folder, **settings)
    monkeypatch.setattr(module, "_alike", lambda *arguments: 0)
    whole = need(folder, **settings)
    assert (grown.trained, grown.weights) == (whole.trained, whole.weights)
    assert grown.activations == pytest.approx(whole.activations, rel=0.01)
    assert grown.total == pytest.approx(whole.total, rel=0.05)


def test_each_setting_counts(tmp_path: Path) -> None:
    folder = shape("GQA", tmp_path)
    plain, adapted = need(folder), need(folder, lora={})
    assert need(folder, gradient_checkpointing=True).activations < 0.9 * plain.activations
    assert need(folder, gradient_accumulation_steps=2).total > plain.total
    assert need(folder, optim="adamw_bnb_8bit").optimizer == plain.optimizer / 4
    linear = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    saved = adapted.weights - need(folder, lora={}, load_in_4bit=True).weights
    assert saved == pytest.approx(linear * (2 - 0.516), rel=0.01)
    assert need(folder, shards=4).weights == plain.weights / 4
    assert need(folder, processes=2).gradients == 2 * plain.gradients, "DDP has buckets"
    assert need(folder, Batch(8, 24, 80)).activations > 1.5 * plain.activations
    assert need(folder, Batch(4, 24, 80)).activations > plain.activations, "logits"


def test_every_optimizer_has_a_size() -> None:
    sizes = {name: state_size(name) for name in get_args(Optimizer)}
    assert sizes["adamw_torch_fused"] == sizes["paged_adamw_32bit"] == 8
    assert (sizes["adamw_8bit"], sizes["adamw_torch_4bit"]) == (2, 1)
    assert (sizes["adafactor"], sizes["sgd"]) == (0, 0)
    assert (sizes["lion_8bit"], sizes["ademamix"], sizes["rmsprop_bnb_8bit"], sizes["adagrad"]) == (1, 12, 1, 4)


def test_code_that_needs_numbers_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(*arguments: Any) -> Any:
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(module, "_traced", needs)
    found = need(shape("GQA", tmp_path))
    assert (found.followed, found.activations) == (False, 0)
    assert "without activations, because" in found.parts(BATCH)


def test_adapters_that_peft_refuses_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.lora: PEFT takes no such adapters"):
        need(shape("GQA", tmp_path), lora={"target_modules": ["nope"]})
