"""The layers that get LoRA adapters, found as PEFT finds them."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from selfevo.errors import ConfigError


def check_targets(wanted: str | list[str], model: Any) -> None:
    """Raises ConfigError unless each name of trainer.lora.target_modules means inner linear layers of `model`.

    A text is a regular expression for the whole name of a layer, a list has the last parts of names.
    PEFT also takes the output layer and embeddings, but their adapters would not be trained or merged.
    """
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        return
    output = model.get_output_embeddings()
    linear = {
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear | Conv1D) and part is not output
    }
    for each in [wanted] if isinstance(wanted, str) else wanted:
        pattern = each if isinstance(wanted, str) else rf"(.*\.)?{re.escape(each)}"
        found = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
        if not found or found - linear:
            what = f"means {min(found - linear)!r}, which is none" if found else "means no layer"
            raise ConfigError(
                f"trainer.lora.target_modules: {each!r} {what}; name linear layers inside this model: "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in linear}))}"
            )
