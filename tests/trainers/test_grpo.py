"""GRPO with the verdict as reward: real TRL on a tiny model, judged by a scripted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfevo.config.loading import parse_config
from selfevo.config.sections import GRPOObjective, SkillsConfig
from selfevo.config.training import TrainerConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, TrainingError
from selfevo.method.protocols import Generation
from selfevo.method.records import Judged, Turns
from selfevo.method.training_examples import prompt_examples
from selfevo.models.chat_template import Chat
from selfevo.pipeline.build import build_trainer
from selfevo.report.progress import Silent
from selfevo.trainers.grpo import VerdictRewardTrainer
from selfevo.trainers.grpo_steps import at_once

CONFIG = TrainerConfig(
    device="cpu",
    dtype="float32",
    learning_rate=1e-3,
    num_train_epochs=1,
    per_device_train_batch_size=4,
)
OBJECTIVE = GRPOObjective(num_generations=4)
SKILLS = SkillsConfig.model_validate({"respond": {"temperature": 1.0, "max_new_tokens": 6}})
ROWS = [Judged(str(i), f"Sort: {i} 1", "r", "f", "r^", "v") for i in range(2, 6)]


def likes_short(model: Path, turns: Turns) -> str | Generation:
    if len(turns[1]) == 5:
        return Generation("and so on", "length", 1, 1)
    return f"Hm.\nVerdict: {'qualified' if len(turns[1]) < 5 else 'not qualified'}"


@pytest.mark.parametrize("ends", [True, False])
def test_the_model_it_starts_from_judges_every_response(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    # An untrained model does not come to an end by itself: let any token be one, or none.
    monkeypatch.setattr(Chat, "stop_ids", lambda self, eos: list(range(self.tokenizer.vocab_size * ends)))
    judge = ScriptedEngine(likes_short)
    output, work = tmp_path / "out", tmp_path / "work"
    output.mkdir()
    trainer = VerdictRewardTrainer(CONFIG, OBJECTIVE, SKILLS, lambda: judge)
    figures = trainer.train(tiny_model, prompt_examples(ROWS), output, work=work, seed=0, progress=Silent())
    assert figures["sequences"] == 16, "four prompts, four responses to each"
    assert 0 <= figures["reward_first"] <= 1
    asked = {request.turns[0] for _, request in judge.calls}
    assert asked <= {row.prompt for row in ROWS}
    if not ends:
        assert judge.calls == [] and figures["reward_last"] == 0
        return
    assert all(len(request.turns) == 3 for _, request in judge.calls)
    assert {model for model, _ in judge.calls} == {tiny_model}
    assert (output / "model.safetensors").is_file()


def test_only_a_readable_yes_is_rewarded(tiny_model: Path) -> None:
    trainer = VerdictRewardTrainer(CONFIG, OBJECTIVE, SKILLS, lambda: ScriptedEngine(likes_short))
    asked = [[{"role": "user", "content": "p"}]] * 7
    texts = ["yes", "much too long", "12345", "  ", "yes", "<think>\nmuch too long\n</think>\n\nyes", "<think>yes"]
    ended = [True, True, True, True, False, True, True]
    given = trainer._rewards(ScriptedEngine(likes_short), tiny_model, asked, texts, ended, 0)
    assert given == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0], "thinking is neither judged nor an answer"


def test_each_prompt_is_trained_on_once() -> None:
    examples = prompt_examples([*ROWS, ROWS[0]])
    assert [example.turns for example in examples] == [(row.prompt,) for row in ROWS]
    assert {example.term for example in examples} == {"prompt"}


def test_it_is_the_trainer_of_the_rounds() -> None:
    data: dict[str, Any] = {"model": "m", "output": "o", "prompts": {"path": "p"}, "corpus": {"path": "c"}}
    config = parse_config({**data, "objective": "grpo", "policy": "continual-latest"}, "test")
    trainer = build_trainer(config, "round-2")
    assert isinstance(trainer, VerdictRewardTrainer)
    assert trainer.key() == build_trainer(config, "round-1").key() != build_trainer(config, "meta").key()


@pytest.mark.parametrize("change", [{"num_generations": 3}, {"beta": 0.1}])
def test_its_settings_are_part_of_its_lineage(change: dict[str, Any]) -> None:
    other = OBJECTIVE.model_copy(update=change)
    keys = {
        VerdictRewardTrainer(CONFIG, each, SKILLS, lambda: ScriptedEngine(likes_short)).key()
        for each in (OBJECTIVE, other)
    }
    assert len(keys) == 2


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 4), (32, 32), (240, 30), (241, 30), (1000, 25)])
def test_batches_of_prompts_leave_few_out(count: int, size: int) -> None:
    assert at_once(count, 4, 4) == size


@pytest.mark.parametrize(("batch", "size"), [(8, 20), (16, 20), (48, 24), (256, 32), (3, 27)])
def test_responses_are_sampled_for_whole_steps(batch: int, size: int) -> None:
    """1,000 prompts, four responses to each. Few prompts are left over."""
    assert at_once(1000, 4, batch) == size
    assert (4 * size % batch == 0) or (batch % (4 * size) == 0)


@pytest.mark.parametrize(
    ("settings", "batch"), [({"per_device_train_batch_size": 16}, 16), ({"per_device_train_batch_size": 3}, 12)]
)
def test_too_few_prompts_for_a_batch(tiny_model: Path, tmp_path: Path, settings: dict[str, Any], batch: int) -> None:
    config = TrainerConfig.model_validate({**CONFIG.model_dump(), **settings})
    trainer = VerdictRewardTrainer(config, OBJECTIVE, SKILLS, lambda: ScriptedEngine(likes_short))
    with pytest.raises(TrainingError, match=f"2 prompts with 4 responses each do not fill one batch of {batch}; give"):
        trainer.train(
            tiny_model, prompt_examples(ROWS[:2]), tmp_path, work=tmp_path / "work", seed=0, progress=Silent()
        )


def test_the_judges_of_several_processes_need_a_device_each() -> None:
    data: dict[str, Any] = {"model": "m", "output": "o", "prompts": {"path": "p"}, "corpus": {"path": "c"}}
    data |= {"objective": "grpo", "policy": "continual-latest", "trainer": {"processes": 2}}
    assert parse_config(data, "test").trainer.processes == 2
    with pytest.raises(ConfigError, match=r"engine\.device is cuda:1 for all of them; set engine\.device: cuda"):
        parse_config({**data, "engine": {"device": "cuda:1"}}, "test")


@pytest.mark.parametrize("lora", [None, {"merge": False}])
def test_responses_do_not_depend_on_the_batch_of_a_device(tiny_model: Path, tmp_path: Path, lora: Any) -> None:
    """The same global batch as one batch and as two that are added up."""
    seen = []
    for batch, accumulated in ((4, 1), (2, 2)):
        judge, folder = ScriptedEngine(likes_short), tmp_path / str(batch)
        (folder / "out").mkdir(parents=True)
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "lora": lora}
        config = TrainerConfig.model_validate({**CONFIG.model_dump(), **settings, "optim": "sgd"})
        trainer = VerdictRewardTrainer(config, OBJECTIVE, SKILLS, lambda judge=judge: judge)  # type: ignore[misc]
        given = list[list[int]]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chat, "stop_ids", lambda self, eos: list(range(self.tokenizer.vocab_size)))
            patch.setattr(Chat, "text", lambda self, ids, given=given: given.append(list(ids)) or "x" * len(set(ids)))
            trainer.train(
                tiny_model,
                prompt_examples(ROWS),
                folder / "out",
                work=folder / "work",
                seed=0,
                progress=Silent(),
            )
        seen.append(given)
    assert seen[0] == seen[1]
    assert len({tuple(ids) for ids in seen[0]}) > 8, "each response has its own random numbers"
