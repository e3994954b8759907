"""Direct preference optimisation with TRL (arXiv 2305.18290): r^ preferred to r. A baseline, not SELF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from selfevo.config.sections import DPOObjective, TrainerConfig
from selfevo.errors import TrainingError
from selfevo.method.protocols import Progress
from selfevo.method.records import Example, content_id
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer
from selfevo.models.loading import check_ids
from selfevo.trainers._trl import Watched, figures, free_memory, load, lora, run, save, settings
from selfevo.trainers.order import InOrder


@dataclass(slots=True)
class PreferenceTrainer:
    """Trains on examples with a `rejected` text. The reference is the model it starts from."""

    config: TrainerConfig
    objective: DPOObjective

    def key(self) -> str:
        settings = self.config.model_dump(mode="json", exclude={"save_minutes"})
        return content_id(settings, self.objective.model_dump(mode="json"))

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        rows, _ = pairs(Chat(load_tokenizer(base)), examples, self.config.max_length)
        return sum(map(_length, rows))

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        config = self.config
        model, tokenizer, half = load(base, config, seed)
        rows, dropped = pairs(Chat(tokenizer), examples, config.max_length)
        if not rows:
            raise TrainingError(
                f"all {len(examples)} pairs are longer than trainer.max_length={config.max_length}; raise it"
            )
        check_ids(base, model, (ids for row in rows for ids in row.values()))
        trainer = _Pretokenised(
            model=model,
            args=DPOConfig(**settings(config, work, seed, half), beta=self.objective.beta, max_length=None),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Watched(progress, config.save_minutes)],
            peft_config=lora(config, model),
        )
        seconds, losses = run(trainer, work)
        save(trainer, tokenizer, base, output)
        tokens = sum(map(_length, rows)) * config.num_train_epochs
        del trainer, model
        free_memory()
        return {
            "sequences": float(len(rows)),
            "dropped_overlong": float(dropped),
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
        whole = [
            chat.sequence((*asked, text), example.weights, example.system)[0] for text in (chosen, example.rejected)
        ]
        if max(map(len, whole)) <= max_length:
            ids = [sequence[len(prompt) :] for sequence in whole]
            rows.append({"prompt_ids": prompt, "chosen_ids": ids[0], "rejected_ids": ids[1]})
    return rows, len(examples) - len(rows)


def _length(row: dict[str, Any]) -> int:
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


class _Pretokenised(InOrder, DPOTrainer):  # type: ignore[misc]
    """Uses our token ids: TRL's own tokenisation reads control tokens in a text as such."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **settings: Any) -> Any:
        return dataset
