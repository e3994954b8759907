"""The parts that a configuration names, built: engine and trainers."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from selfevo.config.run_config import RunConfig
from selfevo.config.sections import EngineConfig, SkillsConfig, TrainerConfig
from selfevo.engines.transformers import TransformersEngine
from selfevo.method.protocols import Engine, Sampling, Trainer
from selfevo.rundir.inspect import run_settings


def build_engine(config: EngineConfig = EngineConfig()) -> Engine:  # noqa: B008  (frozen)
    """The engine a configuration names. Raises MissingExtraError where it is not installed."""
    if config.kind == "vllm":
        from selfevo.engines.vllm import VLLMEngine  # an extra

        return VLLMEngine(config.batch_size, config.dtype, config.gpu_memory_utilization, config.kv_cache_gib)
    return TransformersEngine(config.batch_size, config.dtype, config.device, config.kv_cache_gib)


def build_trainer(config: RunConfig, name: str) -> Trainer:
    """The trainer of the model `name`, imported here: who only asks a model need not wait for TRL."""
    settings = trainer_of(config, name)
    if config.objective == "sft" or not name.startswith("round-"):
        from selfevo.trainers.sft import TRLTrainer

        return TRLTrainer(settings)
    if config.objective == "dpo":
        from selfevo.trainers.dpo import PreferenceTrainer

        return PreferenceTrainer(settings)
    from selfevo.trainers.grpo import VerdictRewardTrainer

    return VerdictRewardTrainer(settings, config.skills, lambda: build_engine(config.engine))


def trainer_of(config: RunConfig, name: str) -> TrainerConfig:
    """The trainer's settings for the model `name`: the warm-up and the rounds may have their own.

    What is said of the rounds is in none of them any more: two runs that differ in it alone share their other models.
    """
    trainer = config.trainer
    own: dict[str, float | None] = {}
    if name == "warm-up":
        own = {"num_train_epochs": config.corpus.warmup_epochs}
    elif name.startswith("round-"):
        own = {"num_train_epochs": trainer.round_epochs, "learning_rate": trainer.round_learning_rate}
    used = {key: value for key, value in own.items() if value is not None}
    return trainer.model_copy(update={**used, "round_epochs": None, "round_learning_rate": None})


def describe_platform() -> dict[str, str]:
    """What a reader needs to judge a timing, and nothing that names the machine or its owner."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}


def build_sampling(model: Path, max_new_tokens: int | None = None) -> dict[str, Sampling]:
    """The limits of each skill, greedy: `max_new_tokens` for all, else those of the run that made the folder `model`,
    else the defaults."""
    skills = SkillsConfig.model_validate(run_settings(model).get("skills", {}))
    limits = {name: getattr(skills, name).max_new_tokens for name in SkillsConfig.model_fields}
    return {name: Sampling(max_new_tokens or limit) for name, limit in limits.items()}
