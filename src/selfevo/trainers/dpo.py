"""Direct preference optimisation with TRL (arXiv 2305.18290): r^ preferred to r. A baseline, not SELF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        seconds, losses = run(trainer, work, config, self.training)
        save(trainer, tokenizer, base, output, config)
        tokens = sum(map(_length, rows)) * epochs(trainer, config)
        del trainer, model
        free_memory()
        return {
            "sequences": float(len(rows)),
            "dropped_overlong": float(dropped + too_long),
            **({"held_out": float(len(unseen))} if held else {}),
            "tokens": float(tokens),
            **figures(losses),
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


class _Pretokenised(InOrder, DPOTrainer):  # type: ignore[misc]
    """Uses our token ids: TRL's own tokenisation reads control tokens in a text as such."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **settings: Any) -> Any:
        return dataset
