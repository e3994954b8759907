"""The adapters of a configuration, and the layers that get them, found as PEFT finds them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from selfevo.config.training import LoraSettings, TrainerConfig
from selfevo.errors import ConfigError


def lora(config: TrainerConfig, model: Any) -> LoraConfig | None:
    """The new adapters for `model`; None if it has some already. Raises ConfigError if it has no layers for them."""
    if config.lora is None or isinstance(model, PeftModel):
        return None
    check_targets(config.lora.target_modules, model)
    check_further(config.lora, model)
    settings = LoraConfig(**config.lora.peft(), task_type="CAUSAL_LM")
    if config.lora.exclude_modules is not None or config.lora.layers_to_transform is not None:
        try:  # on a model without weights, because PEFT changes the one that it is given
            with torch.device("meta"):
                get_peft_model(
                    AutoModelForCausalLM.from_config(model.config),
                    LoraConfig(**config.lora.peft(), task_type="CAUSAL_LM"),
                )
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"trainer.lora: no layer gets an adapter ({reason}); correct target_modules, exclude_modules or "
                "layers_to_transform"
            ) from None
    return settings


def check_targets(wanted: str | list[str], model: Any) -> None:
    """Raises ConfigError unless each name of trainer.lora.target_modules means inner linear layers of `model`.

    A text is a regular expression for the whole name of a layer, a list has the last parts of names.
    PEFT also takes the output layer and embeddings, but their adapters would not be trained or merged.
    """
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        return
    linear = _linear(model)
    for each in [wanted] if isinstance(wanted, str) else wanted:
        pattern = each if isinstance(wanted, str) else rf"(.*\.)?{re.escape(each)}"
        found = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
        if not found or found - linear:
            what = f"means {min(found - linear)!r}, which is none" if found else "means no layer"
            raise ConfigError(
                f"trainer.lora.target_modules: {each!r} {what}; name linear layers inside this model: {_ends(linear)}"
            )


def check_further(settings: LoraSettings, model: Any) -> None:
    """Raises ConfigError for names in the other settings that mean nothing in `model`: PEFT would pass over them."""
    linear, modules = _linear(model), dict(model.named_modules())
    for key in ("rank_pattern", "alpha_pattern"):
        for each in getattr(settings, key):
            if not any(re.match(rf"(.*\.)?({each})$", name) for name in linear):
                raise ConfigError(
                    f"trainer.lora.{key}: {each!r} means no layer; name linear layers inside this model: "
                    f"{_ends(linear)}"
                )
    blocks = int(getattr(model.config.get_text_config(), "num_hidden_layers", 0) or 2**31)
    for block in settings.layers_to_transform or ():
        if not 0 <= block < blocks:
            raise ConfigError(f"trainer.lora.layers_to_transform: {block} is no block; the model has 0 to {blocks - 1}")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = ends[1] is not None and ends[0].weight is ends[1].weight
    for each in settings.modules_to_save or ():
        found = {name for name in modules if name == each or name.endswith(f".{each}")}
        if not found or not each:
            raise ConfigError(
                f"trainer.lora.modules_to_save: {each!r} means no module of this model; correct the name, or remove it"
            )
        if tied and any(part in ends for name in found for part in modules[name].modules()):
            raise ConfigError(
                f"trainer.lora.modules_to_save: {each!r} holds the embedding, which this model shares with its output "
                "layer, so that a copy of one would tear them apart; remove it, or train all weights (without lora)"
            )


def check_same_settings(base: Path, model: Any, settings: LoraSettings) -> None:
    """Raises ConfigError unless the adapter in `base`, on which a training goes on, is one of `settings`."""
    found, wanted = model.peft_config["default"], LoraConfig(**settings.peft(), task_type="CAUSAL_LM")
    names = [name for name in LoraSettings.model_fields if name not in ("merge", "target_modules")]
    if not (isinstance(settings.target_modules, str) and settings.target_modules.lower() == "all-linear"):
        names.append("target_modules")  # else PEFT has replaced it by the names that it found
    for name in names:
        old, new = (_plain(getattr(each, name)) for each in (found, wanted))
        if old != new:
            raise ConfigError(
                f"{base} is an adapter with {name}: {old}, and trainer.lora has {new}; give the same, or set "
                "trainer.lora.merge: true, which merges it first"
            )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | set | tuple) else value or None


def _linear(model: Any) -> set[str]:
    output = model.get_output_embeddings()
    return {
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear | Conv1D) and part is not output
    }


def _ends(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))
