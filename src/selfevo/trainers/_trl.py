"""What all trainers share: loading, TRL's settings, checkpoints and saving.

This package computes the loss mask, a weight per token (beta), and logits only where there is a
label. TRL and transformers do the rest: the loop, the optimizer, mixed precision, LoRA, checkpoints
and their resume, several devices.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig
from transformers import TrainerCallback, set_seed

from selfevo.config.sections import TrainerConfig
from selfevo.errors import RunError, TrainingError
from selfevo.method.protocols import Progress
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.models.loading import check_trainable, load_model
from selfevo.rundir.atomic_files import MODEL_MARKER, added_files, check_there, folder_faults, read_marker, seal
from selfevo.trainers.adapters import check_targets

T = TypeVar("T")


def load(base: Path, config: TrainerConfig, seed: int) -> tuple[Any, Any, torch.dtype]:
    """The model to train, its tokenizer, and the precision of matrix products. Sets all seeds."""
    quiet()
    device = pick_device(config.device)
    half = pick_dtype(config.dtype, device)
    set_seed(seed)
    # cuDNN's attention has NaN gradients for sequences that are padded to a multiple of 64 tokens
    # (torch 2.11, H200; experiments/notebook.md).
    torch.backends.cuda.enable_cudnn_sdp(False)
    tokenizer = load_tokenizer(base)
    # Master weights in float32 (LoRA leaves the base model as it is); matrix products run in `half`.
    # On a CPU with short sequences, plain matrix products are faster than the fused kernel's backward
    # pass.
    attention = "eager" if device.type == "cpu" else "sdpa"
    model = load_model(base, half if config.lora else torch.float32, attn_implementation=attention)
    check_trainable(base, model)
    return model, tokenizer, half


def settings(config: TrainerConfig, work: Path, seed: int, half: torch.dtype) -> dict[str, Any]:
    """The settings for every TRL trainer."""
    return {
        "output_dir": str(work),
        "seed": seed,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_ratio,  # below 1 it is a share of all steps
        "num_train_epochs": config.num_train_epochs,
        "weight_decay": config.weight_decay,
        "adam_beta2": config.adam_beta2,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "optim": "adamw_torch_fused",
        "bf16": half is torch.bfloat16,
        "fp16": half is torch.float16,
        "ddp_find_unused_parameters": False,
        "use_cpu": pick_device(config.device).type == "cpu",
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "logging_steps": 1,
        "save_strategy": "no",  # Watched saves by time instead
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
    }


def run(trainer: Any, work: Path) -> tuple[float, list[float]]:
    """Trains, from the last checkpoint if there is one. Returns seconds and the loss of each step.

    Raises TrainingError if the device runs out of memory.
    """
    # TRL's callbacks print a dictionary per step; ours shows progress instead.
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=from_first(lambda: last_checkpoint(work)))
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "out of memory in training; lower trainer.per_device_train_batch_size (and raise "
            "gradient_accumulation_steps), set gradient_checkpointing, or train adapters with trainer.lora"
        ) from error
    seconds = time.monotonic() - started
    return seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def save(trainer: Any, tokenizer: Any, base: Path, output: Path) -> None:
    """Saves a plain transformers folder, adapters merged. Raises TrainingError on a non-finite weight."""
    if not trainer.is_world_process_zero():
        return
    trained = trainer.model.merge_and_unload() if hasattr(trainer.model, "merge_and_unload") else trainer.model
    for name, tensor in trained.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"after training, {name} holds non-finite values; lower learning_rate")
    check_there(output)
    # In the dtype of the stored base, so that the model does not get larger.
    trained.to(_stored_dtype(base)).save_pretrained(output)
    tokenizer.save_pretrained(output)


def free_memory() -> None:
    """Gives the memory of a trainer that was deleted back to the device, for generation or another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def figures(losses: list[float]) -> dict[str, float]:
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "steps": float(len(losses)),
        "loss_first": round(losses[0], 4) if losses else math.nan,
        "loss_last": round(sum(tail) / len(tail), 4) if tail else math.nan,
    }


def last_checkpoint(work: Path) -> str | None:
    """The newest complete checkpoint. One without a marker, or changed since, is not used."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            marker = read_marker(folder / MODEL_MARKER)
            faults = [*folder_faults(folder, marker), *added_files(folder, marker)]
        except RunError as error:
            faults = [str(error)]
        if faults:
            shutil.rmtree(folder)
        else:
            whole.append((int(folder.name.partition("-")[2]), folder))
    return str(max(whole)[1]) if whole else None


class Watched(TrainerCallback):  # type: ignore[misc]
    """Shows progress, and saves a checkpoint every `save_minutes` of training.

    It does so only after a multiple of `whole` steps: what a trainer holds between these is in no
    checkpoint.
    """

    def __init__(self, progress: Progress, save_minutes: float, whole: int = 1) -> None:
        self.progress, self.save_seconds, self.saved = progress, save_minutes * 60, time.monotonic()
        self.whole = whole

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.start("train", state.max_steps, state.global_step, unit="steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        loss = state.log_history[-1].get("loss") if state.log_history else None
        self.progress.advance(1, f"loss {loss:.3f}" if loss is not None else "")
        check_there(Path(args.output_dir))  # transformers would make it anew
        possible = state.global_step % self.whole == 0 and state.global_step < state.max_steps
        if possible and from_first(lambda: time.monotonic() - self.saved > self.save_seconds):
            self.saved = time.monotonic()
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # each process has written its part
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", {})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.finish(f"{state.global_step} steps")


def from_first(ask: Callable[[], T]) -> T:
    """What `ask` gives in the first process of a training. Clocks differ, and processes that disagree wait for ever."""
    if not torch.distributed.is_initialized():
        return ask()
    said = [ask()] if torch.distributed.get_rank() == 0 else [None]
    torch.distributed.broadcast_object_list(said)
    answer: T = said[0]  # type: ignore[assignment]
    return answer


def lora(config: TrainerConfig, model: Any) -> LoraConfig | None:
    """The adapters of the configuration. Raises ConfigError if `model` has no layers for them."""
    if config.lora is None:
        return None
    check_targets(config.lora.target_modules, model)
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,
        lora_dropout=config.lora.lora_dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _stored_dtype(base: Path) -> torch.dtype:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype
