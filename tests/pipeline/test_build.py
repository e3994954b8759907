"""What a run is put together from: shares of the pool, the tokens of the baseline, the settings of each training."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import small_demo
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.inputs.continuing import Course
from selfevo.method.records import Prompt, Refined
from selfevo.method.training_examples import answer_examples, meta_examples
from selfevo.pipeline.build import trainer_of
from selfevo.pipeline.run import baseline_examples
from selfevo.trainers.scripted import ScriptedTrainer


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_demo(tmp_path, tmp_path / "run")


@pytest.mark.parametrize(("size", "rounds"), [(9, 3), (10, 3), (11, 3), (3, 3), (100, 7)])
def test_the_pool_is_split_evenly_and_whole(size: int, rounds: int) -> None:
    pool = [Prompt.of(str(i)) for i in range(size)]
    parts = Course(rounds).shared_out(pool)
    assert [p for part in parts for p in part] == pool
    assert len(parts) == rounds
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_supervised_baseline_trains_on_as_many_tokens(tmp_path: Path) -> None:
    d_meta = [Refined(str(i), f"prompt {i}", "draft " * 9, "feedback " * 30, f"answer {i}") for i in range(5)]
    trainer = ScriptedTrainer()
    baseline = baseline_examples(d_meta, [], 1.0, tmp_path, trainer)
    budget, one = trainer.tokens(tmp_path, meta_examples(d_meta, 1.0)), trainer.tokens(tmp_path, baseline[:5])
    assert budget <= trainer.tokens(tmp_path, baseline) < budget + one
    assert {e.turns for e in baseline} == {(f"prompt {i}", f"answer {i}") for i in range(5)}


def test_a_baseline_with_further_labels_learns_each_of_them(tmp_path: Path) -> None:
    d_meta = [Refined("0", "prompt 0", "draft", "feedback", "answer 0")]
    further = answer_examples(Refined(str(i), f"prompt {i}", "", "", f"answer {i}") for i in range(1, 50))
    baseline = baseline_examples(d_meta, further, 1.0, tmp_path, ScriptedTrainer())
    assert [e.turns for e in baseline] == [(f"prompt {i}", f"answer {i}") for i in range(50)]


def test_epochs_and_learning_rate_of_each_training(config: RunConfig) -> None:
    changed = parse_config(
        {
            **config.model_dump(mode="json"),
            "trainer": {"num_train_epochs": 3, "round_epochs": 2, "learning_rate": 0.2, "round_learning_rate": 0.1},
            "corpus": {"task": {"name": "demo"}, "warmup_epochs": 7},
        },
        "test",
    )
    assert [trainer_of(changed, n).num_train_epochs for n in ("warm-up", "sft", "meta", "round-1", "round-9")] == [
        7,
        3,
        3,
        2,
        2,
    ]
    assert [trainer_of(changed, n).learning_rate for n in ("warm-up", "sft", "meta", "round-1")] == [0.2, 0.2, 0.2, 0.1]
    same = parse_config({**changed.model_dump(mode="json"), "trainer": {"num_train_epochs": 3}}, "test")
    assert trainer_of(same, "round-1") == same.trainer
    rates = changed.model_copy(update={"trainer": changed.trainer.model_copy(update={"round_learning_rate": 0.3})})
    for name in ("warm-up", "sft", "meta"):
        assert trainer_of(rates, name) == trainer_of(changed, name), "the rounds alone are another training"
    assert trainer_of(rates, "round-1") != trainer_of(changed, "round-1")
