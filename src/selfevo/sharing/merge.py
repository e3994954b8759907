"""`selfevo merge`: an adapter and its base as one plain model, whose logits are those of the two together."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from selfevo.errors import ConfigError, TrainingError
from selfevo.method.protocols import Progress
from selfevo.models.device import load_tokenizer, quiet
from selfevo.models.loading import check_trainable, load_adapted, load_model, stored_dtype
from selfevo.models.logits import distances, probe, round_weights
from selfevo.models.resolve import resolve_model
from selfevo.report.model_card import ADAPTER, WHOLE, literal
from selfevo.rundir.adapter_folder import ADAPTER_CONFIG, base_folder, base_reference
from selfevo.rundir.atomic_files import (
    CARD,
    check_folder,
    from_user,
    move,
    seal,
    space_for,
    write_atomic,
)
from selfevo.rundir.inspect import best_model, is_run, wording_of

TOLERANCE = 1e-4  # the largest difference that is allowed between logits at a token, as a share of how much they vary


@dataclass(frozen=True, slots=True)
class Merged:
    """The new model. `merging` and `saving` are the largest differences at a token, as shares of how much logits vary.

    That of `saving` is what rounding to the base's precision costs.
    """

    path: Path
    base: Path
    merging: float
    saving: float


def merge_adapter(adapter: str, output: Path, progress: Progress, base: str | None = None) -> Merged:
    """Adds the adapter in the folder `adapter` to its base and writes a plain transformers folder to `output`.

    `adapter` may also be a run directory: its best model. `base` is a folder or a hub id; default: the one that the
    adapter names. Raises ConfigError if there is no adapter or if `output` exists, DataError if the base has other
    layers, RunError if it is not the base that the adapter was trained on, TrainingError if the logits change.
    """
    if output.exists():
        raise ConfigError(f"{output} exists; give the name of a new folder")
    folder = adapter_folder(adapter)
    base_path = resolve_model(base) if base else base_folder(folder)
    check_folder(folder, base_path)
    quiet()
    progress.start("merge", 4, unit="steps")
    tokenizer = load_tokenizer(folder if (folder / "tokenizer_config.json").is_file() else base_path)
    model = _with_adapter(base_path, folder)
    before = probe(model, tokenizer)
    progress.advance(1, "loaded")
    merged = model.merge_and_unload()
    merging = _difference(before, probe(merged, tokenizer))
    if not merging <= TOLERANCE:
        raise TrainingError(
            f"{folder}: merging changes logits by {merging:.1%} of their spread; load the adapter with PEFT instead"
        )
    progress.advance(1, "merged")
    dtype = stored_dtype(base_path)
    round_weights(merged, dtype)
    rounded = probe(merged, tokenizer)
    saving = _difference(before, rounded)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with space_for(temporary, sum(path.stat().st_size for path in base_path.glob("*.safetensors"))):
            merged.to(dtype).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        del model, merged
        progress.advance(1, "saved")
        loaded = _difference(rounded, probe(load_model(temporary, torch.float32), tokenizer))
        if not loaded <= TOLERANCE:
            raise TrainingError(
                f"{folder}: the model that was saved gives other logits when it is loaded again, by {loaded:.1%} of "
                "their spread; load the adapter with PEFT instead"
            )
        write_atomic(temporary / CARD, _card(folder, base_path))
        seal(temporary, {"name": output.name, "wording": wording_of(folder).learnt})
        move(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    progress.advance(1, "compared")
    progress.finish(f"logits differ by {merging:.1e} after merging, {saving:.1e} after saving")
    return Merged(output, base_path, merging, saving)


def adapter_folder(name: str) -> Path:
    """The folder of an adapter. Raises ConfigError if `name` is neither one nor a run whose best model is one."""
    path = from_user(name)
    path = best_model(path) if is_run(path) else path
    if not (path / ADAPTER_CONFIG).is_file():
        what = "is a whole model, so there is nothing to merge" if (path / "config.json").is_file() else "is no adapter"
        raise ConfigError(
            f"{path} {what}; give a folder with {ADAPTER_CONFIG}, as trainer.lora with merge: false writes it"
        )
    return path


def _with_adapter(base: Path, folder: Path) -> Any:
    check_trainable(base)
    adapted = load_adapted(folder, torch.float32, base=base)
    if not hasattr(adapted, "merge_and_unload"):
        kind = adapted.peft_config["default"].peft_type
        raise ConfigError(f"{folder} is an adapter of the kind {kind}, which no weights can hold; load it with PEFT")
    return adapted


def _difference(before: torch.Tensor, after: torch.Tensor) -> float:
    return float(distances(before, after).max())


def _card(folder: Path, base: Path) -> str:
    """The adapter's card, if it has one, with a line about the merging."""
    name, revision = base_reference(base)
    named = literal(name if revision else Path(name).name)  # no folder of this machine
    said = f"Merged by `selfevo merge` from the adapter {literal(folder.name)} and its base {named}."
    try:
        card = ModelCard.load(folder / CARD)
    except (OSError, ValueError):
        return f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n{said}\n"
    card.data.library_name = "transformers"
    card.data.tags = [tag for tag in card.data.tags or [] if tag not in ("peft", "lora", "adapter")] or None
    head, newline, rest = card.text.strip().replace(ADAPTER, WHOLE).partition("\n")
    return f"---\n{card.data.to_yaml()}\n---\n\n{head}\n\n{said}\n{newline}{rest}\n"
