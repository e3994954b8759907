"""Tiny random models of the causal architectures that transformers knows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# By the names that configurations give to the same thing. A configuration gets those that it has.
TINY: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_experts_per_token", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_head_dim", "v_head_dim"), 8),
    "qk_rope_head_dim": 8,
    "rotary_dim": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "ssm_state_size": 8,
    "state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "initializer_range": 0.3,
    "is_decoder": True,
    "attn_layer_indices": [1, 3],
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "hidden_size_per_layer_input": 8,
    "image_size": 28,
    "patch_size": 14,
    "mm_tokens_per_image": 4,
}


OWN: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
LARGEST = 8_000_000  # parameters
NESTED = ("text_config", "vision_config", "audio_config")


def names() -> Iterator[str]:
    yield from sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build(name: str, vocabulary: int, eos: int) -> Any:
    """A tiny model of the architecture `name`, in float32. Raises whatever its code raises."""
    import torch

    config = configuration(name, vocabulary, eos)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > LARGEST:
        raise ValueError(f"has {size:,} parameters")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configuration(name, vocabulary, eos)).eval()


def configuration(name: str, vocabulary: int, eos: int) -> Any:
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    return kind(**_tiny(kind, vocabulary, eos) | OWN.get(name, {}))


def _tiny(kind: Any, vocabulary: int, eos: int) -> dict[str, Any]:
    """Settings that make a configuration of the class `kind` tiny, and those within it."""
    named = {*inspect.signature(kind.__init__).parameters, *getattr(kind, "__annotations__", {})}
    fixed = {name for name, _ in inspect.getmembers(kind, lambda member: isinstance(member, property))}
    settings = {key: value for key, value in TINY.items() if key in {*named, *dir(kind)} - fixed}
    settings |= {"vocab_size": vocabulary, "eos_token_id": eos, "bos_token_id": eos}
    if "vocab_size_per_layer_input" in named:
        settings["vocab_size_per_layer_input"] = vocabulary
    if "layer_types" in named and (default := getattr(kind(), "layer_types", None)):
        kinds = list(dict.fromkeys(default))
        kinds += ["full_attention"] * (kinds == ["linear_attention"])
        settings["layer_types"] = (kinds * 4)[:4]
    if "kv_lora_rank" in settings:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    for part in {*NESTED} & {*getattr(kind, "sub_configs", {})}:
        inner = type(getattr(kind(), part))
        if inner is not type(None):
            settings[part] = {"model_type": inner.model_type, **_tiny(inner, vocabulary, eos)}
    return settings
