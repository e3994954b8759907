"""Supervised fine-tuning with TRL's SFTTrainer, our own loss mask, and a weight per token."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from trl import SFTConfig, SFTTrainer

from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, TrainingError
from selfevo.method.protocols import Progress
from selfevo.method.records import Example, content_id
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer
from selfevo.models.loading import check_ids
from selfevo.trainers._trl import (
    Watched,
    check_any_fits,
    epochs,
    figures,
    free_memory,
    held_out,
    load,
    run,
    save,
    settings,
)
from selfevo.trainers.adapters import lora
from selfevo.trainers.attention import FusedWhereLong, fused_where_long
from selfevo.trainers.gates import lean_gates
from selfevo.trainers.loss import give_loss, labelled_loss, short_way_is_right
from selfevo.trainers.memory import fitting, halved, take
from selfevo.trainers.order import InOrder
from selfevo.trainers.sharding import Sharded
from selfevo.trainers.tracking import UNNAMED, Training

IGNORED = -100


@dataclass(slots=True)
class TRLTrainer:
    """Trains with the settings in `config`; TrainerConfig describes each."""

    config: TrainerConfig
    training: Training = UNNAMED

    def key(self) -> str:
        return content_id(self.config.deciding())

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        rows, _ = tokenise(Chat(load_tokenizer(base)), examples, self.config.max_length)
        return sum(row["length"] for row in rows)

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        config = self.config
        while True:
            try:
                return self._train(config, base, examples, output, work, seed, progress)
            except TrainingError as error:
                smaller = halved(config) if isinstance(error.__cause__, torch.OutOfMemoryError) else None
                if smaller is None or config.processes > 1:
                    raise
            config = smaller  # outside of the except clause, whose error keeps the model alive
            free_memory()
            take(config, work, "the device ran out of memory for a micro-batch")

    def _train(
        self,
        config: TrainerConfig,
        base: Path,
        examples: Sequence[Example],
        output: Path,
        work: Path,
        seed: int,
        progress: Progress,
    ) -> dict[str, float]:
        model, tokenizer, half = load(base, config, seed)
        kept, held = held_out(examples, config)
        chat = Chat(tokenizer)
        rows, dropped = tokenise(chat, kept, config.max_length)
        unseen, too_long = tokenise(chat, held, config.max_length)
        check_any_fits(rows, kept, "training sequences", config)
        check_any_fits(unseen, held, "held-out sequences", config)
        check_ids(base, model, (row["input_ids"] for row in (*rows, *unseen)))
        if config.packing:
            check_packing(base, model, rows[0]["input_ids"])
        data = packed(rows, config.max_length) if config.packing else rows
        config = fitting(base, config, model, data, half, work)
        fillers = -len(data) % (config.per_device_train_batch_size * config.processes) if config.processes > 1 else 0
        arguments = SFTConfig(
            **settings(config, work, seed, half),
            max_length=None,  # sequences that are too long were left out above, never cut
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="group_by_length",
        )
        flat = config.packing and str(config.attn_implementation).startswith("flash")
        collator = _Collator(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0, flat)
        trainer = _WeightedTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([*data, *[filler(data[0])] * fillers]),
            eval_dataset=Dataset.from_list(unseen) if unseen else None,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[Watched(progress, config.save_minutes)],
            peft_config=lora(config, model),
        )
        trainer.fillers = fillers
        trainer.short = short_way_is_right(trainer.model, rows[0]["input_ids"])
        if trainer.args.world_size > 1:
            give_loss(trainer.model, trainer.short)
        if config.attn_implementation in (None, "sdpa"):
            trainer.fused = fused_where_long(trainer.model, data)
        cast = casts_inputs(config, half)
        with disable_input_dtype_casting(trainer.model, not cast), lean_gates(trainer.model, trainer.fused is not None):
            seconds, losses, memory = run(trainer, work, config, self.training)
        save(trainer, tokenizer, base, output, config)
        times = epochs(trainer, config)
        tokens = sum(row["length"] for row in rows) * times
        labelled = sum(w > 0 for row in rows for w in row["weights"]) * times
        del trainer, model
        free_memory()
        return {
            "sequences": float(len(rows)),
            "dropped_overlong": float(dropped + too_long),
            **({"held_out": float(len(unseen))} if held else {}),
            "tokens": float(tokens),
            "padding_share": round(collator.padding / max(1, collator.padding + collator.tokens), 4),
            "labelled_tokens": float(labelled),
            **figures(losses, memory),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        }


def casts_inputs(config: TrainerConfig, half: torch.dtype) -> bool:
    """Whether each adapter gets its inputs in float32.

    Where it only multiplies them, autocast takes them back to half precision at once, and keeps that copy too.
    """
    return half is torch.float32 or config.lora is None or bool(config.lora.lora_dropout or config.lora.use_dora)


def tokenise(chat: Chat, examples: Sequence[Example], max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Rows {"id", "input_ids", "weights", "length"}, and the number of sequences that are too long."""
    rows, dropped = [], 0
    for example in examples:
        for ids, weights in chat.sequences(example.turns, example.weights, example.system):
            if len(ids) <= max_length:
                rows.append({"id": example.id, "input_ids": ids, "weights": weights, "length": len(ids)})
            else:
                dropped += 1
    return rows, dropped


class _WeightedTrainer(Sharded, InOrder, SFTTrainer):  # type: ignore[misc]
    """Cross-entropy with a weight per token, averaged over the labelled tokens of an optimizer step."""

    batch: tuple[str, ...] = ()  # ids of the rows of the last micro-batch
    short = False  # the way of labelled_loss
    fused: FusedWhereLong | None = None
    control: Any

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.batch = inputs["ids"]
        weights = inputs["weights"][:, 1:]
        labelled = weights > 0
        if any(self.batch) and not bool(labelled.any()):
            raise TrainingError(f"no token of a batch has a weight above 0; remove {self._rows()}")
        ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs.get("position_ids")
        if self.fused:
            mask = self.fused.mask(mask)
        if self.args.world_size > 1:  # what wraps the model must see the forward pass
            loss = model(input_ids=ids, attention_mask=mask, weights=weights, position_ids=positions)
        else:
            with self.accelerator.autocast():  # autocast of model.forward does not apply: another method is called
                loss = labelled_loss(model, ids, mask, weights, self.short, positions)
        # num_items_in_batch counts labels (below) over all micro-batches of the step and all devices.
        count = labelled.sum() if num_items_in_batch is None else num_items_in_batch
        loss = loss / count
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # their gradients are averaged
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step}; lower learning_rate; {self._rows()}"
            )
        return (loss, None) if return_outputs else loss

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss on what is held out: the mean over all its labelled tokens, whatever batches and processes are."""
        self.model.eval()
        rows = sorted(self.eval_dataset, key=lambda row: row["length"])
        size, world = self.args.per_device_eval_batch_size, self.args.world_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        sums = []
        for start in range(0, len(batches), world):
            place = start + self.args.process_index
            inputs = self._prepare_inputs(self.data_collator(batches[min(place, len(batches) - 1)]))
            loss = float(self.compute_loss(self.model, inputs, num_items_in_batch=world))
            if place < len(batches):  # else it only keeps the others company, whose model may be in parts
                sums.append((loss, int((inputs["weights"][:, 1:] > 0).sum())))
        totals, counts = zip(*gather_object(sums), strict=True)
        metrics = {"eval_loss": sum(totals) / sum(counts)}
        self.log(dict(metrics))
        self.model.train()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        norm = logs.get("grad_norm")
        if norm is not None and not math.isfinite(norm):
            raise TrainingError(
                f"the gradient became {norm} at step {self.state.global_step}; lower learning_rate; {self._rows()}"
            )
        super().log(logs, *args, **kwargs)

    def _rows(self) -> str:
        return f"the rows of the batch: {', '.join(self.batch)}"


def filler(row: dict[str, Any]) -> dict[str, Any]:
    """A row to learn nothing from. It fills the last batch of an epoch, so that each process has one as large."""
    short = {name: row[name][:2] for name in row.keys() - {"id", "length"}}
    return {**short, "weights": [0.0] * 2, "id": "", "length": 2}


def packed(rows: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Rows that hold several of `rows`, up to `size` tokens: the longest first, each where it leaves least room.

    Positions begin anew with each sequence. By them transformers sees where one ends, and lets none
    attend to another. The first token of a sequence has no weight: the one before it is foreign.
    """
    rooms: list[tuple[int, int]] = []  # tokens that still fit, and the number of the pack, in order
    packs: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda row: -row["length"]):
        place = bisect.bisect_left(rooms, (row["length"], 0))
        room, number = rooms.pop(place) if place < len(rooms) else (size, len(packs))
        if number == len(packs):
            packs.append([])
        packs[number].append(row)
        bisect.insort(rooms, (room - row["length"], number))
    return [
        {
            "id": ", ".join(row["id"] for row in pack),
            "input_ids": [token for row in pack for token in row["input_ids"]],
            "weights": [weight for row in pack for weight in (0.0, *row["weights"][1:])],
            "position_ids": [position for row in pack for position in range(row["length"])],
            "length": sum(row["length"] for row in pack),
        }
        for pack in packs
    ]


@torch.no_grad()
def check_packing(base: Path, model: Any, ids: list[int]) -> None:
    """Raises ConfigError if a sequence sees the one before it in a pack, by a try."""
    first, second = ids[:48], ids[:48]
    training = model.training
    model.eval()

    def behind(*sequences: list[int]) -> torch.Tensor:
        tokens = torch.tensor([[token for each in sequences for token in each]], device=model.device)
        positions = torch.tensor([[place for each in sequences for place in range(len(each))]], device=model.device)
        logits: torch.Tensor = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0]
        return logits[-len(second) :].float()

    alone, together = behind(second), behind(first[::-1], second)
    model.train(training)
    most = 1e-3 if torch.finfo(model.dtype).bits >= 32 else 0.05
    if not float((alone - together).norm()) <= most * float(alone.norm()):
        raise ConfigError(
            f"trainer.packing: the sequences of a pack see each other in {base} ({model.config.model_type}); leave "
            "packing out"
        )


@dataclass(slots=True)
class _Collator:
    pad_token_id: int
    flat: bool = False  # FlashAttention finds the sequences of packs only in a single row
    tokens: int = 0  # so far, without padding
    padding: int = 0  # so far, in tokens

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Right-padded tensors (rows, columns), and the row ids for error messages.

        The Trainer needs `labels`: it counts those that are not IGNORED.
        """
        if self.flat:
            rows = [
                {
                    "id": ", ".join(row["id"] for row in rows if row["id"]),
                    "length": sum(row["length"] for row in rows),
                    **{
                        name: [value for row in rows for value in row[name]]
                        for name in ("input_ids", "weights", "position_ids")
                    },
                }
            ]
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
        batch = {"input_ids": ids, "attention_mask": mask, "weights": weights, "labels": labels, "ids": names}
        if "position_ids" in rows[0]:  # padding is one more sequence
            batch["position_ids"] = torch.tensor(
                [[*row["position_ids"], *range(width - row["length"])] for row in rows]
            )
        return batch
