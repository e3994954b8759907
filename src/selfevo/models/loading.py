"""Loads a model, and refuses a folder that does not hold all of it.

transformers fills what is missing with random numbers and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from selfevo.errors import DataError

_REMEDY = "give a folder that save_pretrained() wrote, or fetch it again"


def load_model(path: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """The causal language model in `path`. `settings` are those of from_pretrained.

    Code from the folder is never run. Raises DataError if the folder holds no model, or another one
    than its config.json describes: weights missing, left over, of another shape, or cut off.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **settings
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # OSError, ValueError, SafetensorError, RuntimeError, ImportError, KeyError, ...
        raise DataError(f"cannot load a model from {path}: {_line(error)}; {_REMEDY}") from error
    faults = {
        "has no weights for": info["missing_keys"],
        "has weights that its config.json does not know:": info["unexpected_keys"],
        "has weights of another shape than its config.json says:": info["mismatched_keys"],
    }
    for fault, keys in faults.items():
        if keys:
            raise DataError(f"{path} {fault} {_some(keys)}; {_REMEDY}")
    return model


def check_trainable(path: Path, model: Any) -> None:
    """Raises DataError for a model whose weights are quantised, because they cannot be trained."""
    kind = getattr(model.config, "quantization_config", None)
    if kind:
        method = kind.get("quant_method") if isinstance(kind, dict) else getattr(kind, "quant_method", kind)
        raise DataError(f"{path} is quantised ({getattr(method, 'value', method)}); give the model before quantisation")


def check_ids(path: Path, model: Any, sequences: Iterable[Sequence[int]]) -> None:
    """Raises DataError if a token of `sequences` has no row in the embedding of `model`."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max((max(ids, default=0) for ids in sequences), default=0)
    if largest >= rows:
        raise DataError(
            f"the tokenizer of {path} writes token {largest}, but the model's embedding has {rows} rows; give the "
            "tokenizer that belongs to the model, or enlarge the embedding (model.resize_token_embeddings)"
        )


def stored_dtype(path: Path) -> torch.dtype:
    """The precision in which the model in `path` was saved."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype


def _line(error: Exception) -> str:
    """The words of an error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _some(keys: Iterable[Any]) -> str:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
