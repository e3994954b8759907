"""The layers that get adapters: what PEFT would crash on, or would not train, is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from selfevo.config.loading import parse
from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError
from selfevo.trainers.adapters import lora


def adapted(model: Any, wanted: str | list[str]) -> set[str]:
    """The last part of the name of each layer that gets an adapter."""
    settings = lora(parse(TrainerConfig, {"lora": {"target_modules": wanted}}, "x.yaml"), model)
    names = [name.partition(".lora_A") for name, _ in get_peft_model(model, settings).named_parameters()]
    return {name.rpartition(".")[2] for name, found, _ in names if found}


def skeleton(folder: Path) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [
        (["q_proj"], {"q_proj"}),
        (["q_proj", "q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (["0.self_attn.q_proj"], {"q_proj"}),
        (["model.layers.1.self_attn.q_proj"], {"q_proj"}),
        (r".*[qk]_proj", {"q_proj", "k_proj"}),
        (r"model\.layers\.0\..*q_proj", {"q_proj"}),
    ],
)
def test_layers_are_named_by_their_ends_or_by_an_expression(
    tiny_model: Path, wanted: str | list[str], layers: set[str]
) -> None:
    assert adapted(skeleton(tiny_model), wanted) == layers


@pytest.mark.parametrize("wanted", ["all-linear", "ALL-LINEAR"])
def test_all_linear_layers_but_the_output(tiny_model: Path, wanted: str) -> None:
    assert "q_proj" in adapted(skeleton(tiny_model), wanted)
    assert "lm_head" not in adapted(skeleton(tiny_model), wanted)


def test_the_layers_of_gpt2_are_linear_too() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))
    assert adapted(model, ["c_attn"]) == {"c_attn"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["q_proj", "nope"], "'nope' means no layer"),
        (["x.q_proj"], "'x.q_proj' means no layer"),
        ([" q_proj"], "' q_proj' means no layer"),
        (["proj"], "'proj' means no layer"),
        (["all-linear"], "'all-linear' means no layer"),
        (["embed_tokens"], "'embed_tokens' means 'model.embed_tokens', which is none"),
        (["self_attn"], "'self_attn' means 'model.layers.0.self_attn', which is none"),
        (["model.lm_head"], "'model.lm_head' means no layer"),
        ("nope", "'nope' means no layer"),
        ("q_proj", "'q_proj' means no layer"),
        (" ", "' ' means no layer"),
        (".*", "'.*' means '', which is none"),
        (".*head", "'.*head' means 'lm_head', which is none"),
        ("lm_head|.*q_proj", "means 'lm_head', which is none"),
        ("model.embed_tokens", "means 'model.embed_tokens', which is none"),
    ],
)
def test_what_is_no_inner_linear_layer_is_refused(tiny_model: Path, wanted: str | list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        adapted(skeleton(tiny_model), wanted)
    assert said in str(raised.value)
    assert "name linear layers inside this model: down_proj, gate_proj, k_proj" in str(raised.value)


@pytest.mark.parametrize("wanted", ["(", "[", "*", "a{2,1}"])
def test_what_is_no_expression_is_a_mistake_of_the_configuration(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: lora\.target_modules: .* is no regular expression"):
        parse(TrainerConfig, {"lora": {"target_modules": wanted}}, "x.yaml")
