"""What all trainers share: loading, TRL's settings, checkpoints and saving.

This package computes the loss mask, a weight per token (beta), and logits only where there is a
label. TRL and transformers do the rest: the loop, the optimizer, mixed precision, LoRA, checkpoints
and their resume, several devices.
"""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig, TrainerCallback, set_seed

from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, RunError, TrainingError
from selfevo.method.protocols import Progress
from selfevo.method.records import Example, content_id
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.models.loading import check_trainable, load_adapted, load_model, stored_dtype
from selfevo.models.logits import probe, round_weights
from selfevo.rundir.adapter_folder import is_adapter
from selfevo.rundir.atomic_files import MODEL_MARKER, added_files, check_there, folder_faults, read_marker, seal
from selfevo.trainers.adapters import check_same_settings
from selfevo.trainers.memory import PeakMemory
from selfevo.trainers.packages import check_settings
from selfevo.trainers.saving import (
    check_finite,
    check_loaded,
    check_same,
    emptied,
    keep_settings,
    write_adapter,
    write_curve,
    write_model,
)
from selfevo.trainers.sharding import sharded_settings, whole_model
from selfevo.trainers.stopping import Stopping
from selfevo.trainers.tracking import Training, reported

T = TypeVar("T")


def load(base: Path, config: TrainerConfig, seed: int) -> tuple[Any, Any, torch.dtype]:
    """The model to train, its tokenizer, and the precision of matrix products. Sets all seeds."""
    quiet()
    check_settings(config)
    device = pick_device(config.device)
    half = pick_dtype(config.dtype, device)
    set_seed(seed)
    # cuDNN's attention has NaN gradients for sequences that are padded to a multiple of 64 tokens
    # (torch 2.11, H200; experiments/notebook.md).
    torch.backends.cuda.enable_cudnn_sdp(False)
    tokenizer = load_tokenizer(base)
    # On a CPU with short sequences, plain matrix products are faster than the fused kernel's backward
    # pass.
    attention = config.attn_implementation or ("eager" if device.type == "cpu" else "sdpa")
    options: dict[str, Any] = {"attn_implementation": attention}
    if config.load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=half, bnb_4bit_use_double_quant=True
        )
        options["device_map"] = {"": device}
    check_trainable(base)
    # Master weights in float32 (LoRA leaves the base model as it is); matrix products run in `half`.
    dtype = half if config.lora else torch.float32
    if is_adapter(base) and keeps_adapter(config):
        model = load_adapted(base, dtype, trainable=True, **options)
        assert config.lora is not None
        check_same_settings(base, model, config.lora)
    elif is_adapter(base) and config.load_in_4bit:
        raise ConfigError(
            f"{base} is an adapter, which cannot be merged into 4-bit weights; set trainer.lora.merge: false to go on "
            "with it, or leave trainer.load_in_4bit out"
        )
    else:
        model = load_model(base, dtype, **options)
    chat, known = Chat(tokenizer), model.generation_config.eos_token_id
    if chat.stop_id not in ([known] if isinstance(known, int) else known or ()):
        # Saved, so that every library stops where a turn was trained to end.
        model.generation_config.eos_token_id = chat.stop_ids(known)
    return model, tokenizer, half


def keeps_adapter(config: TrainerConfig) -> bool:
    """Whether adapters are saved as such."""
    return config.lora is not None and not config.lora.merge


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
        "lr_scheduler_kwargs": config.lr_scheduler_kwargs,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps or -1,
        "weight_decay": config.weight_decay,
        "adam_beta2": config.adam_beta2,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "neftune_noise_alpha": config.neftune_noise_alpha,
        "use_liger_kernel": config.use_liger_kernel,
        "optim": config.optim,
        "bf16": half is torch.bfloat16,
        "fp16": half is torch.float16,
        "ddp_find_unused_parameters": False,
        "use_cpu": pick_device(config.device).type == "cpu",
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "logging_steps": 1,
        "save_strategy": "no",  # Watched saves by time instead
        "disable_tqdm": True,
        "report_to": "none",  # `run` adds the callbacks of trackers
        **sharded_settings(config),
        **(_evaluation(config) if config.eval_share else {}),
    }


def _evaluation(config: TrainerConfig) -> dict[str, Any]:
    return {
        "eval_strategy": config.eval_strategy,
        "eval_steps": config.eval_steps,
        "per_device_eval_batch_size": config.per_device_train_batch_size,
        "prediction_loss_only": True,
    }


def held_out(examples: Sequence[Example], config: TrainerConfig) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those to measure the loss on: all examples about some of the prompts, each once.

    A prompt's hash decides, so that one which is held out stays so from round to round as far as the
    share allows. Raises TrainingError if there is only one prompt.
    """
    prompts = sorted({_prompt(example) for example in examples})
    if not config.eval_share:
        return list(examples), []
    if len(prompts) < 2:
        raise TrainingError(
            f"trainer.eval_share is {config.eval_share}, but the examples are about one prompt; give more, or leave "
            "eval_share out"
        )
    count = min(max(1, round(config.eval_share * len(prompts))), len(prompts) - 1)
    held = set(prompts[:count])
    kept = [example for example in examples if _prompt(example) not in held]
    return kept, list({example.id: example for example in examples if _prompt(example) in held}.values())


def check_any_fits(rows: Sequence[Any], examples: Sequence[Example], what: str, config: TrainerConfig) -> None:
    """Raises TrainingError if there are examples, and none is left within trainer.max_length."""
    if examples and not rows:
        raise TrainingError(
            f"all {len(examples)} {what} are longer than trainer.max_length={config.max_length}; raise it"
        )


def _prompt(example: Example) -> str:
    return content_id(example.system, example.turns[0])


def epochs(trainer: Any, config: TrainerConfig) -> float:
    """The number of epochs that were trained."""
    return config.num_train_epochs if config.max_steps is None else float(trainer.state.epoch)


def run(trainer: Any, work: Path, config: TrainerConfig, training: Training) -> tuple[float, list[float], int]:
    """Trains, from the last checkpoint if there is one. Returns seconds, the loss of each step, and the most memory.

    A signal to stop takes effect when the step in hand has a checkpoint. Raises TrainingError if the
    device runs out of memory.
    """
    stopping = next(each.stopping for each in trainer.callback_handler.callbacks if isinstance(each, Watched))
    # TRL's callbacks print a dictionary per step; ours shows progress instead.
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    started, peak = time.monotonic(), PeakMemory(trainer.args.device)
    try:
        with stopping, reported(trainer, config.report_to, training):
            trainer.train(resume_from_checkpoint=from_first(lambda: last_checkpoint(work)))
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "out of memory in training; lower trainer.per_device_train_batch_size (and raise "
            "gradient_accumulation_steps), set gradient_checkpointing, or train adapters with trainer.lora"
        ) from error
    stopping.again()
    seconds = time.monotonic() - started
    return seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], peak.bytes()


def save(trainer: Any, tokenizer: Any, base: Path, output: Path, config: TrainerConfig) -> None:
    """Saves a plain transformers folder, or with lora.merge: false the adapter alone; and the curve.

    Of several processes the first one does. Raises TrainingError on a non-finite weight, or if logits change when
    a sharded model is put together, when adapters are merged or when the saved model is loaded again.
    """
    sharded, stored = config.sharding != "none", stored_dtype(base)
    if sharded:  # both need all processes
        trained = probe(trainer.model, tokenizer)
        model = whole_model(trainer.model)
    else:
        model = trainer.accelerator.unwrap_model(trainer.model)
    if not trainer.is_world_process_zero():
        return
    for name in ("forward", "_original_forward"):  # the model's own again, without autocast, as it will be loaded
        model.__dict__.pop(name, None)
    check_finite(model)
    check_there(output)
    write_curve(trainer.state.log_history, output)
    keep_settings(model)
    before, device = probe(model, tokenizer), model.device
    if sharded:
        half = pick_dtype(config.dtype, pick_device(config.device))
        check_same(trained, before, min(half, model.dtype, key=_bits), "put together from its shards,")
    if isinstance(model, PeftModel) and (keeps_adapter(config) or config.load_in_4bit):
        adapter = output if keeps_adapter(config) else output.with_name(f"{output.name}.adapter")
        write_adapter(model, base, adapter)
        if not keeps_adapter(config):  # into the weights before quantisation: merging into 4 bits would round it away
            model = load_adapted(adapter, stored).to(device)
            before = probe(model, tokenizer)
            shutil.rmtree(adapter)
    if isinstance(model, PeftModel) and not keeps_adapter(config):
        model = model.merge_and_unload()
        check_finite(model)
        check_same(before, probe(model, tokenizer), model.dtype, "after its adapters were merged,")
    # The same arithmetic as that of the model which is loaded.
    dtype, options = model.dtype, {"attn_implementation": model.config._attn_implementation}
    if not isinstance(model, PeftModel):
        round_weights(model, stored)  # which is no fault
        before = probe(model, tokenizer)
        write_model(model.to(stored), output)
    tokenizer.save_pretrained(output)
    if not (isinstance(model, PeftModel) and config.load_in_4bit):  # there, the base that is loaded is another one
        load_saved = load_adapted if isinstance(model, PeftModel) else load_model
        emptied(trainer, model)
        check_loaded(before, probe(load_saved(output, dtype, **options).to(device), tokenizer), dtype)


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def free_memory() -> None:
    """Gives the memory of a trainer that was deleted back to the device, for generation or another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def figures(losses: list[float], memory: int) -> dict[str, float]:
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "steps": float(len(losses)),
        "loss_first": round(losses[0], 4) if losses else math.nan,
        "loss_last": round(sum(tail) / len(tail), 4) if tail else math.nan,
        "peak_memory_gib": round(memory / 2**30, 2),
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
    """Shows progress, and saves a checkpoint every `save_minutes` of training and when a signal to stop came.

    It saves only after a multiple of `whole` steps: what a trainer holds between these is in no
    checkpoint.
    """

    def __init__(self, progress: Progress, save_minutes: float, whole: int = 1) -> None:
        self.progress, self.save_seconds, self.saved = progress, save_minutes * 60, time.monotonic()
        self.whole, self.stopping = whole, Stopping()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        keep_settings(kwargs["model"])  # which is saved in checkpoints too
        self.progress.start("train", state.max_steps, state.global_step, unit="steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        loss = state.log_history[-1].get("loss") if state.log_history else None
        self.progress.advance(1, f"loss {loss:.3f}" if loss is not None else "")
        check_there(Path(args.output_dir))  # transformers would make it anew
        if state.global_step % self.whole:
            return control
        due, stop = from_first(
            lambda: (time.monotonic() - self.saved > self.save_seconds, self.stopping.number is not None)
        )
        if stop or (due and state.global_step < state.max_steps):
            self.saved = time.monotonic()
            control.should_save = True
        control.should_training_stop |= stop
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # each process has written its part
        if state.is_world_process_zero:
            newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seal(newest, {})
            for older in set(newest.parent.glob("checkpoint-*")) - {newest}:  # only now: a kill may come at any time
                shutil.rmtree(older)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stopped = self.stopping.number is not None
        self.progress.finish(f"{'stopped after ' if stopped else ''}{state.global_step} of {state.max_steps} steps")


def from_first(ask: Callable[[], T]) -> T:
    """What `ask` gives in the first process of a training. Clocks differ, and processes that disagree wait for ever."""
    if not torch.distributed.is_initialized():
        return ask()
    said = [ask()] if torch.distributed.get_rank() == 0 else [None]
    torch.distributed.broadcast_object_list(said)
    answer: T = said[0]  # type: ignore[assignment]
    return answer
