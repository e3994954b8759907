"""Direct preference optimisation with TRL (arXiv 2305.18290): r^ preferred to r. A baseline, not SELF."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from selfevo.config.sections import DPOObjective
from selfevo.config.training import TrainerConfig
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
from selfevo.trainers.order import InOrder
from selfevo.trainers.sharding import Sharded
from selfevo.trainers.tracking import UNNAMED, Training


@dataclass(slots=True)
class PreferenceTrainer:
    """Trains on examples with a `rejected` text. The reference is the model it starts from."""

    config: TrainerConfig
    objective: DPOObjective
    training: Training = UNNAMED

    def key(self) -> str:
        settings = self.config.deciding()
        return content_id(settings, self.objective.model_dump(mode="json"))

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        rows, _ = pairs(Chat(load_tokenizer(base)), examples, self.config.max_length)
        return sum(map(_length, rows))

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        config = self.config
        model, tokenizer, half = load(base, config, seed)
        kept, held = held_out(examples, config)
        chat = Chat(tokenizer)
        rows, dropped = pairs(chat, kept, config.max_length)
        unseen, too_long = pairs(chat, held, config.max_length)
        check_any_fits(rows, kept, "pairs", config)
        check_any_fits(unseen, held, "held-out pairs", config)
        check_ids(base, model, (ids for row in (*rows, *unseen) for ids in row.values()))
        trainer = _Pretokenised(
            model=model,
            args=DPOConfig(**settings(config, work, seed, half), beta=self.objective.beta, max_length=None),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(unseen) if unseen else None,
            processing_class=tokenizer,
            callbacks=[Watched(progress, config.save_minutes)],
            peft_config=lora(config, model),
        )
        seconds, losses, memory = run(trainer, work, config, self.training)
        save(trainer, tokenizer, base, output, config)
        tokens = sum(map(_length, rows)) * epochs(trainer, config)
        del trainer, model
        free_memory()
        return {
            "sequences": float(len(rows)),
            "dropped_overlong": float(dropped + too_long),
            **({"held_out": float(len(unseen))} if held else {}),
            "tokens": float(tokens),
            **figures(losses, memory),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        }


def pairs(chat: Chat, examples: Sequence[Example], max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Rows {"prompt_ids", "chosen_ids", "rejected_ids"}, and the number of pairs that are too long."""
    rows = []
    for example in examples:
        *asked, chosen = example.turns
        prompt = chat.prompt(tuple(asked), example.system)
        row = {
            "prompt_ids": prompt,
            "chosen_ids": chat.answer(chosen),
            "rejected_ids": chat.answer(example.rejected),
        }
        if len(prompt) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= max_length:
            rows.append(row)
    return rows, len(examples) - len(rows)


def _length(row: dict[str, Any]) -> int:
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


class _Pretokenised(Sharded, InOrder, DPOTrainer):  # type: ignore[misc]
    """Uses our token ids: TRL's own tokenisation reads control tokens in a text as such."""

    share = 1.0  # of the loss, which is the mean over the batches of a step

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **settings: Any) -> Any:
        return dataset

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *arguments: Any) -> Any:
        """Notes how much more than 1 each batch of a step weighs because others of it are blank."""
        batches, count = super().get_batch_samples(map(self._without_copies, epoch_iterator), *arguments)
        world = self.args.world_size
        pairs = self._left() + self.args.train_batch_size * self.args.process_index  # of all processes in the last turn
        filled = math.ceil(pairs / self.args.train_batch_size)
        self.share = len(batches) * world / max(1, (len(batches) - 1) * world + filled)
        return batches, count

    def _without_copies(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`batch` without the pairs that accelerate has filled the last batches of an epoch up with.

        One that has no others keeps a pair, and is blank: the other processes wait for its backward pass.
        """
        left, size = self._left(), self.args.train_batch_size
        if left >= size:
            return batch
        cut = {  # all chosen rows come before all rejected ones
            name: rows.reshape(-1, size, *rows.shape[1:])[:, : max(left, 1)].flatten(0, 1)
            for name, rows in batch.items()
        }
        return {**cut, "blank": left <= 0}

    def _left(self) -> int:
        """The number of pairs from those of this process in the batch in hand to the end of the data."""
        state, size, world = self.accelerator.gradient_state, self.args.train_batch_size, self.args.world_size
        left = state.remainder if world > 1 and state.end_of_dataloader and state.remainder > 0 else size * world
        return int(left - size * self.args.process_index)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **settings: Any) -> Any:
        blank, gather = inputs.pop("blank", False), self.accelerator.gather
        if self.accelerator.gradient_state.end_of_dataloader:  # TRL gathers figures of each row; processes may have few
            self.accelerator.gather = gathered
        try:
            loss = super().compute_loss(model, inputs, *arguments, **settings)
        finally:
            self.accelerator.gather = gather
        return loss * (0 if blank else self.share) if model.training else loss


def gathered(values: torch.Tensor) -> torch.Tensor:
    """The values of all processes, one after the other. They may have different numbers of them."""
    return torch.tensor(gather_object(values.reshape(-1).tolist()), device=values.device)
