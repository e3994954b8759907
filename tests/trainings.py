"""What several tests of training share: three examples, and a short training of the tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from selfevo.config.sections import TrainerConfig
from selfevo.method.records import Example
from selfevo.report.progress import Silent
from selfevo.trainers.sft import TRLTrainer

EXAMPLES = [
    Example("1", ("Sort: 2 1", "1 2"), (1.0,), "self"),
    Example("2", ("Sort: 9 3 5", "3 5 9"), (0.25,), "answer"),
    Example("3", ("Sort: 7 4", "7 4", "Check.", "Verdict: not qualified", "Mend.", "4 7"), (0.0, 1.0, 0.5), "skills"),
]


def config(**settings: Any) -> TrainerConfig:
    small: dict[str, Any] = {
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 3,
        "warmup_ratio": 0,
        "lr_scheduler_type": "constant",
        "dtype": "float32",
        "device": "cpu",
    }
    return TrainerConfig(**{**small, **settings})


def train(
    base: Path,
    folder: Path,
    examples: Sequence[Example] = EXAMPLES,
    *,
    seed: int = 0,
    progress: Any = None,
    **settings: Any,
) -> dict[str, float]:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return TRLTrainer(config(**settings)).train(
        base, examples, folder / "out", work=folder / "work", seed=seed, progress=progress or Silent()
    )


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


class Killing:
    """Progress that ends the process, as far as a test can, after `steps` optimizer steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begun = steps, list[tuple[int, int]]()

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.begun.append((done, total))

    def advance(self, amount: int, detail: str = "") -> None:
        self.steps -= amount
        if self.steps == 0:
            raise KeyboardInterrupt

    def finish(self, summary: str = "") -> None: ...
