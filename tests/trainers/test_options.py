"""Options of trl.SFTConfig, peft.LoraConfig and trackers: each does what its name says, or is refused in one line."""

from __future__ import annotations

import contextlib
import json
import typing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from selfevo.config.loading import parse
from selfevo.config.training import LoraSettings, Optimizer, Scheduler, Tracker, TrainerConfig
from selfevo.errors import ConfigError, MissingExtraError, TrainingError
from selfevo.method.records import content_id
from selfevo.models.chat_template import Chat
from selfevo.models.logits import distances
from selfevo.trainers.packages import check_settings
from selfevo.trainers.saving import check_loaded, check_same
from selfevo.trainers.sft import packed, tokenise
from trainings import EXAMPLES, config, state, train


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "out/training.jsonl").read_text().splitlines()]


def test_settings_that_are_not_used_leave_the_key_of_a_training_as_it_was() -> None:
    assert content_id(TrainerConfig().deciding()) == "f71f8f35e0f9c43b"
    assert content_id(TrainerConfig(lora=LoraSettings()).deciding()) == "c2871559ddef3614"
    assert TrainerConfig(report_to=("wandb",)).deciding() == TrainerConfig().deciding()
    assert TrainerConfig(packing=True).deciding() != TrainerConfig().deciding()


def test_the_names_are_those_of_transformers() -> None:
    assert set(typing.get_args(Scheduler)) == {each.value for each in SchedulerType}
    assert set(typing.get_args(Optimizer)) < {each.value for each in OptimizerNames}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_steps": 5, "num_train_epochs": 2}, "max_steps and epochs are given"),
        ({"max_steps": 5, "round_epochs": 2}, "max_steps and epochs are given"),
        ({"load_in_4bit": True}, "load_in_4bit needs adapters"),
        ({"eval_steps": 5}, "eval_steps is for eval_strategy: steps"),
        ({"eval_strategy": "steps"}, "eval_strategy: steps needs eval_steps"),
        ({"eval_strategy": "steps", "eval_steps": 5}, "nothing is held out"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "follows the held-out loss"),
        ({"lora": {"layers_to_transform": [0]}}, "layers_to_transform needs target_modules as a list"),
        ({"report_to": "excel"}, "report_to"),
        ({"optim": "adam"}, "optim"),
    ],
)
def test_what_cannot_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: ") as raised:
        parse(TrainerConfig, settings, "x.yaml")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"load_in_4bit": True, "lora": {}}, "pip install bitsandbytes"),
        ({"optim": "paged_adamw_8bit"}, "pip install bitsandbytes"),
        ({"use_liger_kernel": True}, "pip install liger-kernel"),
        ({"attn_implementation": "flash_attention_2"}, "pip install flash-attn"),
        ({"report_to": "mlflow"}, "pip install mlflow"),
    ],
)
def test_a_package_that_is_missing_is_named(settings: dict[str, Any], said: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("selfevo.trainers.packages.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=said):
        check_settings(config(**settings))


def test_what_needs_cuda_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.trainers.packages.find_spec", lambda name: True)
    with pytest.raises(ConfigError, match=r"trainer\.load_in_4bit needs a CUDA device, and the trainer's is cpu"):
        check_settings(config(load_in_4bit=True, lora={}))
    with pytest.raises(ConfigError, match="torch sees no Apple GPU"):
        check_settings(config(use_liger_kernel=True, device="mps"))


@pytest.mark.parametrize("name", typing.get_args(Scheduler))
def test_every_scheduler_trains_or_says_what_it_lacks(tiny_model: Path, tmp_path: Path, name: str) -> None:
    further: dict[str, Any] = {"eval_share": 0.4} if name in ("reduce_lr_on_plateau", "greedy") else {}
    more = {
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 1},
    }
    settings = {"lr_scheduler_type": name, "max_steps": 2, "num_train_epochs": 3, **further}
    figures = train(tiny_model, tmp_path, lr_scheduler_kwargs=more.get(name), **settings)
    assert figures["steps"] == 2
    if name == "cosine_with_min_lr":
        with pytest.raises(ConfigError, match="lr_scheduler_kwargs"):
            train(tiny_model, tmp_path / "2", **settings)


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd", "rmsprop", "adagrad"])
def test_optimizers_train(tiny_model: Path, tmp_path: Path, name: str) -> None:
    train(tiny_model, tmp_path, optim=name, learning_rate=1e-3)
    before, after = state(tiny_model), state(tmp_path / "out")
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_neftune_trains_with_noise(tiny_model: Path, tmp_path: Path) -> None:
    for name, alpha in (("plain", None), ("noisy", 15.0)):
        train(tiny_model, tmp_path / name, neftune_noise_alpha=alpha)
    assert curve(tmp_path / "plain")[0]["loss"] != curve(tmp_path / "noisy")[0]["loss"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_sequences_give_the_loss_that_they_give_alone(tiny_model: Path, tmp_path: Path, attention: str) -> None:
    for name, packing in (("alone", False), ("packed", True)):
        train(tiny_model, tmp_path / name, packing=packing, max_length=128, attn_implementation=attention)
    alone, together = curve(tmp_path / "alone")[0], curve(tmp_path / "packed")[0]
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)


def test_packs_hold_every_sequence_once_within_the_limit(tiny_model: Path) -> None:
    rows, _ = tokenise(Chat(AutoTokenizer.from_pretrained(tiny_model)), EXAMPLES * 5, 512)
    packs = packed(rows, 200)
    assert all(pack["length"] == len(pack["input_ids"]) <= 200 for pack in packs)
    assert sum(pack["length"] for pack in packs) == sum(row["length"] for row in rows)
    assert sorted(", ".join(pack["id"] for pack in packs).split(", ")) == sorted(row["id"] for row in rows)
    assert all(
        weight == 0
        for pack in packs
        for weight, at in zip(pack["weights"], pack["position_ids"], strict=True)
        if at == 0
    )


def test_the_held_out_loss_is_that_of_the_prompts_that_are_not_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    from test_sft import loss_by_hand

    from selfevo.trainers._trl import held_out

    settings: dict[str, Any] = {"eval_share": 0.4, "per_device_train_batch_size": 1, "num_train_epochs": 2}
    figures = train(tiny_model, tmp_path, EXAMPLES * 2, **settings)
    kept, held = held_out(EXAMPLES * 2, config(**settings))
    assert (len(kept), len(held), figures["held_out"], figures["sequences"]) == (4, 1, 1, 4)
    rows = curve(tmp_path)
    assert [row["step"] for row in rows if "eval_loss" in row] == [4, 8]
    assert rows[-1]["eval_loss"] == pytest.approx(loss_by_hand(tmp_path / "out", held)[0], rel=1e-3)
    with pytest.raises(TrainingError, match="the examples are about one prompt"):
        train(tiny_model, tmp_path / "2", EXAMPLES[:1], **settings)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"modules_to_save": ["nope"]}, "'nope' means no module"),
        ({"rank_pattern": {"nope": 2}}, "rank_pattern: 'nope' means no layer"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [2]}, "2 is no block; the model has 0 to 1"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "no layer gets an adapter"),
    ],
)
def test_names_that_mean_nothing_are_refused(tiny_model: Path, tmp_path: Path, lora: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        train(tiny_model, tmp_path, lora=lora)
    assert said in str(raised.value)


def test_a_shared_embedding_is_not_torn_from_the_output(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "tied")
    for name in ("lm_head", "embed_tokens", "model"):
        with pytest.raises(ConfigError, match="shares with its output layer"):
            train(tmp_path / "tied", tmp_path, lora={"modules_to_save": [name]})
    train(tmp_path / "tied", tmp_path, lora={})


def test_other_logits_after_saving_end_the_training() -> None:
    logits = torch.randn(20, 50)
    check_loaded(logits, logits + 1e-5, torch.float32)
    check_same(logits, logits + 0.1 * torch.randn(20, 50), torch.bfloat16, "merged,")
    with pytest.raises(TrainingError, match="the model gives other logits than it was trained to"):
        check_same(logits, logits + torch.randn(20, 50), torch.bfloat16, "merged,")
    for apart, precision in (
        (0.01, torch.float32),
        (0.1, torch.bfloat16),
        (0.1, torch.float16),
        (torch.nan, torch.float32),
    ):
        with pytest.raises(TrainingError, match="the model gives other logits"):
            check_loaded(logits, logits + apart * torch.randn(20, 50), precision)


@pytest.mark.parametrize("lora", [None, {}, {"merge": False}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize(("stored", "trained"), [("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("bfloat16", None)])
def test_a_model_that_was_saved_in_half_precision_is_the_same_to_the_bit(
    tiny_model: Path, tmp_path: Path, lora: Any, stored: str, trained: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding to what is stored happened before, and both compute alike: so the check can be strict."""
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, stored)).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    apart: list[float] = []
    monkeypatch.setattr(
        "selfevo.trainers._trl.check_loaded", lambda a, b, precision: apart.append(float(distances(a, b).max()))
    )
    train(base, tmp_path, lora=lora, dtype=trained or "float32")
    assert apart == [0]


def test_of_several_processes_the_first_one_reports() -> None:
    """The others do not even look for the tracker."""
    from selfevo.trainers.tracking import UNNAMED, reported

    second = SimpleNamespace(is_world_process_zero=lambda: False)
    with reported(second, ("no-such-tracker",), UNNAMED):
        pass


@pytest.mark.parametrize("tracker", typing.get_args(Tracker))
def test_trackers_get_every_step(
    tiny_model: Path, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are installed; nothing leaves the machine."""
    if find_spec(tracker) is None and (tracker != "tensorboard" or find_spec("tensorboardX") is None):
        pytest.skip(f"{tracker} is not installed")
    from selfevo.report.progress import Silent
    from selfevo.trainers.sft import TRLTrainer
    from selfevo.trainers.tracking import Training

    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}.items():
        monkeypatch.setenv(name, value)
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    trainer = TRLTrainer(config(report_to=tracker, max_steps=2, num_train_epochs=3), Training(tmp_path / "run", "meta"))
    trainer.train(tiny_model, EXAMPLES, tmp_path / "out", work=tmp_path / "work", seed=0, progress=Silent())
    found = {
        "tensorboard": "run/tensorboard/meta/events*",
        "wandb": "wandb/offline-run-*",
        "trackio": "trackio/run*",
        "mlflow": "mlruns*/**/*",
    }
    assert list(tmp_path.glob(found[tracker]))


@pytest.mark.parametrize(
    ("device", "there", "said"),
    [
        ("cuda", 1, "trainer.processes is 2, and torch sees 1 CUDA devices; lower it"),
        ("cuda:1", 4, "trainer.processes is 2 and trainer.device is cuda:1, one device for all of them"),
        ("cuda", 2, ""),
        ("cpu", 0, ""),
    ],
)
def test_each_process_has_a_device_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, there: int, said: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
        check_settings(config(device=device, processes=2))
