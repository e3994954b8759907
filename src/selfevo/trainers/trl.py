"""Fine-tuning with TRL's SFTTrainer on sequences that we tokenise ourselves.

What is ours: the loss mask, a weight per token (beta), and logits computed only where there is a label. What is TRL's
and transformers': the loop, the optimizer, mixed precision, LoRA, checkpoints and their resume, several devices.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from selfevo.chat import Chat
from selfevo.errors import RunError, TrainingError
from selfevo.files import MODEL_MARKER, folder_faults, read_marker, seal
from selfevo.protocols import Progress
from selfevo.records import Example, content_id
from selfevo.sections import TrainerConfig
from selfevo.torch_setup import load_tokenizer, pick_device, pick_dtype, quiet

IGNORED = -100


@dataclass(slots=True)
class TRLTrainer:
    """Trains as `config` says (TrainerConfig has the meaning of each setting)."""

    config: TrainerConfig

    def key(self) -> str:
        return content_id(self.config.model_dump(mode="json", exclude={"save_minutes"}))

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        rows, _ = tokenise(Chat(load_tokenizer(base)), examples, self.config.max_length)
        return sum(row["length"] for row in rows)

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        config = self.config
        model, tokenizer, half = load(base, config, seed)
        rows, dropped = tokenise(Chat(tokenizer), examples, config.max_length)
        if not rows:
            raise TrainingError(
                f"all {len(examples)} training sequences are longer than max_length={config.max_length}"
            )
        arguments = SFTConfig(
            **settings(config, work, seed, half),
            max_length=None,  # over-long sequences were left out above, never cut
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="group_by_length",
        )
        collator = _Collator(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
        trainer = _WeightedTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[Watched(progress, config.save_minutes)],
            peft_config=lora(config),
        )
        seconds, losses = run(trainer, work)
        save(trainer, tokenizer, base, output)
        tokens = sum(row["length"] for row in rows) * config.num_train_epochs
        labelled = sum(w > 0 for row in rows for w in row["weights"]) * config.num_train_epochs
        del trainer, model
        gc.collect()
        return {
            "sequences": float(len(rows)),
            "dropped_overlong": float(dropped),
            "tokens": float(tokens),
            "padding_share": round(collator.padding / max(1, collator.padding + collator.tokens), 4),
            "labelled_tokens": float(labelled),
            **figures(losses),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        }


def load(base: Path, config: TrainerConfig, seed: int) -> tuple[Any, Any, torch.dtype]:
    """The model to train, its tokenizer, and the precision of matrix products. Sets all seeds."""
    quiet()
    device = pick_device(config.device)
    half = pick_dtype(config.dtype, device)
    set_seed(seed)
    tokenizer = load_tokenizer(base)
    try:
        # Master weights in float32 (LoRA leaves the base model as it is); matrix products run in `half`.
        model = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=half if config.lora else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            # On a CPU and short sequences, plain matrix products beat the fused kernel's backward pass.
            attn_implementation="eager" if device.type == "cpu" else "sdpa",
        )
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot load a model from {base}: {error}") from error
    return model, tokenizer, half


def settings(config: TrainerConfig, work: Path, seed: int, half: torch.dtype) -> dict[str, Any]:
    """What every trainer of TRL is given."""
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
        "use_cpu": pick_device(config.device).type == "cpu",
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "logging_steps": 1,
        "save_strategy": "no",  # by the clock, see Watched
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
    }


def run(trainer: Any, work: Path) -> tuple[float, list[float]]:
    """Trains, from the last checkpoint if there is one. Returns seconds and the loss of each step.

    Raises TrainingError where the device's memory does not suffice.
    """
    # Ours shows progress; theirs prints a dictionary per step.
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(work))
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "out of memory in training; lower trainer.per_device_train_batch_size (and raise "
            "gradient_accumulation_steps), set gradient_checkpointing, or train adapters with trainer.lora"
        ) from error
    seconds = time.monotonic() - started
    return seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def save(trainer: Any, tokenizer: Any, base: Path, output: Path) -> None:
    """A plain transformers folder, adapters merged. Raises TrainingError where a weight is not finite."""
    trained = trainer.model.merge_and_unload() if hasattr(trainer.model, "merge_and_unload") else trainer.model
    for name, tensor in trained.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"after training, {name} holds non-finite values; lower learning_rate")
    # As the base was stored: a round must not double the size of the model it started from.
    trained.to(_stored_dtype(base)).save_pretrained(output)
    tokenizer.save_pretrained(output)


def figures(losses: list[float]) -> dict[str, float]:
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "steps": float(len(losses)),
        "loss_first": round(losses[0], 4) if losses else math.nan,
        "loss_last": round(sum(tail) / len(tail), 4) if tail else math.nan,
    }


def last_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint. One without its marker was torn by a kill; one that was changed is not trusted."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            faults = folder_faults(folder, read_marker(folder / MODEL_MARKER))
        except RunError as error:
            faults = [str(error)]
        if faults:
            shutil.rmtree(folder)
        else:
            whole.append((int(folder.name.partition("-")[2]), folder))
    return str(max(whole)[1]) if whole else None


def tokenise(chat: Chat, examples: Sequence[Example], max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Rows {"id", "input_ids", "weights", "length"} for the collator, and how many examples were too long to be one."""
    rows = []
    for example in examples:
        ids, weights = chat.sequence(example.turns, example.weights)
        if len(ids) <= max_length:
            rows.append({"id": example.id, "input_ids": ids, "weights": weights, "length": len(ids)})
    return rows, len(examples) - len(rows)


class _WeightedTrainer(SFTTrainer):  # type: ignore[misc]
    """Cross-entropy with a weight per token, averaged over the labelled tokens of an optimizer step."""

    batch: tuple[str, ...] = ()  # ids of the rows of the last micro-batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.batch = inputs["ids"]
        weights = inputs["weights"][:, 1:]
        labelled = weights > 0
        if not bool(labelled.any()):
            raise TrainingError(f"no token of a batch has a weight, so it teaches nothing; {self._rows()}")
        with self.accelerator.autocast():  # theirs hangs on model.forward, which is not what is called
            logits = _logits(model, inputs["input_ids"], inputs["attention_mask"], labelled)
        targets = inputs["input_ids"][:, 1:][labelled]
        nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        # num_items_in_batch counts labels (below) over all micro-batches of the step and all devices.
        count = labelled.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (nll * weights[labelled]).sum() / count
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step}; lower learning_rate; {self._rows()}"
            )
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        norm = logs.get("grad_norm")
        if norm is not None and not math.isfinite(norm):
            raise TrainingError(
                f"the gradient became {norm} at step {self.state.global_step}; lower learning_rate; {self._rows()}"
            )
        super().log(logs, *args, **kwargs)

    def _rows(self) -> str:
        return f"the rows of the batch: {', '.join(self.batch)}"


def _logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Logits (labelled tokens, vocabulary) that predict the tokens at `labelled`, of shape (rows, columns - 1).

    The output layer of a small model is a large part of its arithmetic, and most tokens of a sequence are prompt.
    Models that scale or cap their logits after the output layer take the long way, through all of them.
    """
    wrapped = hasattr(model, "module")  # several devices: the wrapper must see the forward pass
    bare = model.module if wrapped else model
    bare = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    text = bare.config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
    if wrapped or any(getattr(text, name, None) not in (None, 1, 1.0) for name in names):
        return _at(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labelled)
    hidden = bare.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits: torch.Tensor = bare.get_output_embeddings()(_at(hidden, labelled))
    return logits


def _at(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Rows of `values` (rows, columns, size) that predict a labelled token. Not values[mask]: its backward pass on a
    CPU scatters element by element, over the whole vocabulary where logits are picked."""
    flat = values[:, :-1].reshape(-1, values.shape[-1])
    return flat.index_select(0, labelled.reshape(-1).nonzero()[:, 0])


@dataclass(slots=True)
class _Collator:
    pad_token_id: int
    tokens: int = 0  # seen so far, and padding among what was computed
    padding: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Right-padded (rows, columns) tensors, and the row ids, for error messages.

        `labels` is there for the Trainer, which counts what is not IGNORED.
        """
        width = max(row["length"] for row in rows)
        ids = torch.full((len(rows), width), self.pad_token_id)
        weights = torch.zeros((len(rows), width))
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : row["length"]] = torch.tensor(row["input_ids"])
            weights[i, : row["length"]] = torch.tensor(row["weights"])
            mask[i, : row["length"]] = 1
        self.tokens += int(mask.sum())
        self.padding += int((mask == 0).sum())
        labels = torch.where(weights > 0, ids, torch.tensor(IGNORED))
        names = tuple(row["id"] for row in rows)
        return {"input_ids": ids, "attention_mask": mask, "weights": weights, "labels": labels, "ids": names}


class Watched(TrainerCallback):  # type: ignore[misc]
    """Shows progress, and saves a checkpoint every `save_minutes` of training."""

    def __init__(self, progress: Progress, save_minutes: float) -> None:
        self.progress, self.save_seconds, self.saved = progress, save_minutes * 60, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.start("train", state.max_steps, state.global_step, unit="steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        loss = state.log_history[-1].get("loss") if state.log_history else None
        self.progress.advance(1, f"loss {loss:.3f}" if loss is not None else "")
        if time.monotonic() - self.saved > self.save_seconds and state.global_step < state.max_steps:
            self.saved = time.monotonic()
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", {})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.finish(f"{state.global_step} steps")


def lora(config: TrainerConfig) -> LoraConfig | None:
    if config.lora is None:
        return None
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
