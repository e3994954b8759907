"""What a turn was trained to end with ends generation in every library, because it is saved with the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig, pipeline

import chat_templates as shapes
from chat_templates import model_with_template
from selfevo.config.sections import DPOObjective, GRPOObjective, SkillsConfig
from selfevo.config.training import TrainerConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Trainer
from selfevo.method.records import Example
from selfevo.report.progress import Silent
from selfevo.trainers.dpo import PreferenceTrainer
from selfevo.trainers.grpo import VerdictRewardTrainer
from selfevo.trainers.sft import TRLTrainer
from trainings import config

SKILLS = SkillsConfig.model_validate({"respond": {"temperature": 1.0, "max_new_tokens": 4}})
TRAINERS: dict[str, Callable[[TrainerConfig], Trainer]] = {
    "sft": TRLTrainer,
    "lora": lambda each: TRLTrainer(each.model_copy(update={"lora": config(lora={"r": 2}).lora})),
    "dpo": lambda each: PreferenceTrainer(each, DPOObjective()),
    "grpo": lambda each: VerdictRewardTrainer(
        each, GRPOObjective(num_generations=2), SKILLS, lambda: ScriptedEngine(lambda *_: "Verdict: qualified")
    ),
}
EXAMPLES = {
    "dpo": [Example(str(i), (f"Sort: {i} 1", f"1 {i}"), (1.0,), "preference", rejected="r") for i in range(2, 6)],
    "grpo": [Example(str(i), (f"Sort: {i} 1",), (), "prompt") for i in range(2, 6)],
}
ANSWERS = [Example(str(i), (f"Sort: {i} 1", f"1 {i}"), (1.0,), "self") for i in range(2, 6)]


def trained(kind: str, base: Path, folder: Path, **settings: Any) -> Path:
    for name in ("out", "work"):
        (folder / name).mkdir()
    trainer = TRAINERS[kind](config(per_device_train_batch_size=2, **settings))
    examples = EXAMPLES.get(kind, ANSWERS)
    trainer.train(base, examples, folder / "out", work=folder / "work", seed=0, progress=Silent())
    return folder / "out"


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize(("shape", "stop"), [("LLAMA3", "<|eot_id|>"), ("GEMMA2", "<end_of_turn>")])
def test_a_saved_model_knows_the_token_that_a_turn_was_trained_to_end_with(
    tiny_model: Path, tmp_path: Path, kind: str, shape: str, stop: str
) -> None:
    """The tokenizer's own eos_token is <|im_end|>, as bases and some chat models name another one."""
    base = model_with_template(tiny_model, tmp_path / "base", getattr(shapes, shape))
    output = trained(kind, base, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(output)
    known = GenerationConfig.from_pretrained(output).eos_token_id
    assert set(known) == {tokenizer.convert_tokens_to_ids(stop), tokenizer.eos_token_id}


def test_a_model_that_knows_its_stop_token_is_saved_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    output = trained("sft", tiny_model, tmp_path)
    before, after = (json.loads((folder / "generation_config.json").read_text()) for folder in (tiny_model, output))
    assert before["eos_token_id"] == after["eos_token_id"]


@pytest.mark.parametrize("kind", [*TRAINERS, "kept"])
def test_settings_of_generation_without_effect_are_saved_as_they_were(
    tiny_model: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers refuses to save a temperature without do_sample beside an eos_token_id that is new: in checkpoints
    and at the end, after all steps."""
    monkeypatch.setitem(TRAINERS, "kept", TRLTrainer)
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    given = {"temperature": 0.6, "top_p": 0.9, "do_sample": False, "length_penalty": 2.0, "eos_token_id": 0}
    (base / "generation_config.json").write_text(json.dumps(given))
    lora = {"lora": {"r": 2, "merge": False}} if kind == "kept" else {}
    saved = json.loads(
        (trained(kind, base, tmp_path, save_minutes=1e-9, **lora) / "generation_config.json").read_text()
    )
    stop = AutoTokenizer.from_pretrained(tiny_model).eos_token_id
    assert {name: saved[name] for name in given if name in saved} | {"do_sample": False} == {
        **given, "eos_token_id": [0, stop]
    }  # fmt: skip


def test_a_plain_pipeline_stops_where_the_model_learnt_to(tiny_model: Path, tmp_path: Path) -> None:
    base = model_with_template(tiny_model, tmp_path / "base", shapes.LLAMA3)
    output = trained("sft", base, tmp_path, num_train_epochs=40)
    chat = pipeline("text-generation", str(output))
    said = chat([{"role": "user", "content": "Sort: 3 1"}], max_new_tokens=20, do_sample=False)
    assert said[0]["generated_text"][-1]["content"].strip() == "1 3"
