"""Device and precision settings that the engine and the trainer share."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from selfevo.errors import ConfigError, DataError
from selfevo.rundir.adapter_folder import is_adapter, weights_folder


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r}, but torch sees no CUDA device; use device: auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device is 'mps', but torch sees no Apple GPU; use device: auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"device is {name!r}, which torch does not know; use auto, cpu, cuda, cuda:N or mps"
        ) from None


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for `name`. "auto" is bf16 if the hardware multiplies it natively, else float32."""
    if name == "auto" and device.type == "mps":
        return torch.float32  # not every Apple GPU multiplies bf16
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    dtype: torch.dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name]
    return dtype


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model folder. Code from the model folder is never run. Raises DataError if there is none."""
    if is_adapter(path) and not (path / "tokenizer_config.json").is_file():
        path = weights_folder(path)  # an adapter need not have its own
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # whatever a damaged tokenizer file makes the library raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"cannot load a tokenizer from {path}: {reason}; give a folder with the files that "
            "tokenizer.save_pretrained() wrote"
        ) from error


def quiet() -> None:
    """Turns off progress bars and warnings of libraries, so that they do not hide our own output."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
