"""A training that is killed at any step of several epochs ends with the weights of one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from selfevo.config.sections import DPOObjective, GRPOObjective, SkillsConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.records import Example, Turns
from selfevo.models.chat_template import Chat
from selfevo.report.progress import Silent
from selfevo.trainers.dpo import PreferenceTrainer
from selfevo.trainers.grpo import VerdictRewardTrainer
from selfevo.trainers.sft import TRLTrainer
from trainings import Killing, config, state

# Of many lengths, so that their order matters; four steps an epoch, three epochs.
ROWS = [" ".join(str(n) for n in range(i % 7 + 1)) for i in range(16)]
ANSWERS = [Example(str(i), (f"Sort: {row}", row), (1.0,), "self") for i, row in enumerate(ROWS)]
PAIRS = [Example(str(i), (f"Sort: {row}", row), (1.0,), "preference", f"{i}") for i, row in enumerate(ROWS)]
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "save_minutes": 1e-9,
    "lr_scheduler_type": "linear",
}
PROMPTS = [Example(str(i), (f"Sort: {row}",), (), "prompt") for i, row in enumerate(ROWS)]
SKILLS = SkillsConfig.model_validate({"respond": {"temperature": 1.0, "max_new_tokens": 6}})


def by_length(model: Path, turns: Turns) -> str:
    return f"Verdict: {'qualified' if len(turns[1]) % 2 else 'not qualified'}"


KINDS: dict[str, Callable[[], tuple[Any, list[Example]]]] = {
    "grpo": lambda: (
        VerdictRewardTrainer(
            config(**SETTINGS), GRPOObjective(num_generations=2), SKILLS, lambda: ScriptedEngine(by_length)
        ),
        PROMPTS,
    ),
    "sft": lambda: (TRLTrainer(config(**SETTINGS)), ANSWERS),
    "dpo": lambda: (PreferenceTrainer(config(**SETTINGS), DPOObjective()), PAIRS),
}


WHOLE = {"sft": 1, "dpo": 1, "grpo": 8}  # steps between two checkpoints: GRPO uses its responses up first


def trained(kind: str, base: Path, folder: Path, progress: Any = None) -> dict[str, torch.Tensor]:
    trainer, examples = KINDS[kind]()
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    trainer.train(base, examples, folder / "out", work=folder / "work", seed=0, progress=progress or Silent())
    return state(folder / "out")


@pytest.mark.parametrize(
    "kind", [kind if kind == "sft" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_killed_at_every_step_of_three_epochs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Chat, "stop_ids", lambda self, eos: list(range(0, self.tokenizer.vocab_size, 2)))
    whole = trained(kind, tiny_model, tmp_path / "whole")
    differing, total = {}, 12 if kind != "grpo" else 24
    for step in range(2, total + 1, 1 if kind != "grpo" else 3):
        folder = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            trained(kind, tiny_model, folder, Killing(step))
        again = Killing(100)
        killed = trained(kind, tiny_model, folder, again)
        assert again.begun == [((step - 1) // WHOLE[kind] * WHOLE[kind], total)]
        differing[step] = max(float((killed[name] - whole[name]).abs().max()) for name in whole)
    assert not any(differing.values()), differing
