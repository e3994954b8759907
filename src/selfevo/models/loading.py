"""Loads a model, and refuses a folder that does not hold all of it.

transformers fills what is missing with random numbers and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

from selfevo.errors import DataError
from selfevo.rundir.adapter_folder import is_adapter, weights_folder

_REMEDY = "give a folder that save_pretrained() wrote, or fetch it again"


def load_model(path: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """The causal language model in `path`. `settings` are those of from_pretrained.

    An adapter is merged into its base. Code from the folder is never run. Raises DataError if the
    folder holds no model, or another one than its config.json describes: weights missing, left
    over, of another shape, or cut off.
    """
    if is_adapter(path):
        merged = load_adapted(path, dtype, **settings).merge_and_unload()
        return merged.requires_grad_(True)  # PEFT has frozen the base
    return _load(path, dtype, settings)


def load_adapted(
    path: Path, dtype: torch.dtype, *, base: Path | None = None, trainable: bool = False, **settings: Any
) -> Any:
    """The adapter in `path` on its base, not merged. `base`: the folder of the base; default: what the adapter names.

    Raises DataError as load_model does.
    """
    place = base or weights_folder(path)
    plain = _load(place, dtype, settings)
    if (path / "generation_config.json").is_file():  # the adapter may end its turns with another token
        plain.generation_config = _generation_config(path)
    try:
        model = PeftModel.from_pretrained(plain, path, is_trainable=trainable)
        with safe_open(path / "adapter_model.safetensors", "pt") as file:
            stored = {key for key in file.keys() if "lora_" in key}  # noqa: SIM118  (it is no dictionary)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a damaged adapter makes the library raise
        raise DataError(
            f"cannot load the adapter {path} on {place}: {_line(error)}; give the base that it was trained on"
        ) from error
    # PEFT fills what is missing with new numbers, and passes over what is left.
    there = {key for key in get_peft_model_state_dict(model, save_embedding_layers=False) if "lora_" in key}
    if stored != there:
        raise DataError(
            f"the adapter {path} has other layers than {place} ({_some(stored ^ there)}); give the base that it was "
            "trained on"
        )
    return model


def _generation_config(folder: Path) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        place = folder / "generation_config.json"
        raise DataError(f"{place} cannot be read ({type(error).__name__}); correct it, or delete it") from None


def _load(path: Path, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
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


def check_trainable(path: Path) -> None:
    """Raises DataError for a model whose weights are quantised, because they cannot be trained."""
    path = weights_folder(path)
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError, RecursionError):
        return  # load_model says what is wrong with it
    if kind:
        method = kind.get("quant_method", "in some way") if isinstance(kind, dict) else kind
        raise DataError(f"{path} is quantised ({method}); give the model before quantisation")


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
    config = json.loads((weights_folder(path) / "config.json").read_text(encoding="utf-8"))
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype


def _line(error: Exception) -> str:
    """The words of an error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _some(keys: Iterable[Any]) -> str:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
