"""Builds the parts of a configuration: engine, filters, objective, trainers, annotator."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, get_args

from selfevo.config.base import OwnPart
from selfevo.config.cluster import ClusterConfig
from selfevo.config.loading import parse
from selfevo.config.own_parts import make_part
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import (
    DPOObjective,
    EngineConfig,
    GRPOObjective,
    SkillsConfig,
    TransformersSettings,
    VLLMSettings,
)
from selfevo.config.sources import PromptsCorpus, TaskCorpus
from selfevo.config.training import TrainerConfig
from selfevo.errors import MissingExtraError
from selfevo.method.filters import Filter
from selfevo.method.names import WARM_UP, round_number
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Engine, Sampling, Trainer
from selfevo.method.records import Example, Judged
from selfevo.method.rows import Rows
from selfevo.method.thinking import Thinking
from selfevo.method.training_examples import preference_examples, prompt_examples, self_examples
from selfevo.rundir.inspect import run_settings
from selfevo.rundir.ledger import Ledger
from selfevo.tasks import load_task
from selfevo.tasks.base import Problem
from selfevo.teachers.base import BookedTeacher, Teacher
from selfevo.teachers.oracle import OracleTeacher
from selfevo.trainers.processes import GroupTrainer
from selfevo.trainers.tracking import Training

ENGINES = {
    "transformers": "selfevo.engines.transformers:TransformersEngine",
    "vllm": "selfevo.engines.vllm:VLLMEngine",
}


class Objective(Protocol):
    """Turns the kept rows of a round into training examples.

    It may have a method `trainer(config: TrainerConfig) -> Trainer`, which gives the trainer of the
    rounds. Without it, they are trained with SFT.
    """

    def __call__(self, rows: Rows[Judged], /) -> list[Example]: ...


def build_engine(
    config: EngineConfig = TransformersSettings(),  # noqa: B008  (frozen)
    cluster: ClusterConfig = ClusterConfig(),  # noqa: B008
) -> Engine:
    """The engine of a configuration. Raises MissingExtraError if it is not installed."""
    if config.workers:
        return _engine_on_ray(config, cluster)
    own = isinstance(config, OwnPart)
    options = config.options if isinstance(config, OwnPart) else config.model_dump(exclude={"kind", "workers"})
    engine: Engine = make_part(config.kind if own else ENGINES[config.kind], options, Engine, "an engine")
    return engine


def _engine_on_ray(config: EngineConfig, cluster: ClusterConfig) -> Engine:
    """Workers that each hold the engine which this process would have without them."""
    if find_spec("ray") is None:
        raise MissingExtraError(
            f"engine.workers is {config.workers}, which needs Ray: pip install 'selfevo[ray]'; or leave it out"
        )
    from selfevo.engines.ray.engine import RayEngine

    alone = config.model_copy(update={"workers": 0})
    keeps = isinstance(config, VLLMSettings) or (isinstance(config, TransformersSettings) and config.kv_cache_gib > 0)
    gpus = {"cpu": 0}.get(getattr(config, "device", ""), getattr(config, "tensor_parallel_size", 1))
    return RayEngine(
        make=partial(build_engine, alone),
        batch_size=build_engine(alone).batch_size if isinstance(config, OwnPart) else config.batch_size,
        workers=config.workers,
        cluster=cluster,
        gpus=0 if isinstance(config, OwnPart) else gpus,
        keeps_states=keeps,
    )


def build_filters(config: RunConfig) -> list[Filter]:
    """The filters of a run, in order. A filter of this package is its own section."""
    return [
        make_part(each.kind, each.options, Filter, "a filter") if isinstance(each, OwnPart) else each
        for each in config.filter
    ]


def build_objective(config: RunConfig) -> Objective:
    objective = config.objective
    if isinstance(objective, OwnPart):
        own: Objective = make_part(objective.kind, objective.options, Objective, "an objective")
        return own
    if isinstance(objective, DPOObjective):
        return preference_examples
    return prompt_examples if isinstance(objective, GRPOObjective) else self_examples


def build_trainer(config: RunConfig, name: str) -> Trainer:
    """The trainer of the model `name`, in as many processes as the configuration says."""
    trainer, count = build_one_process_trainer(config, name), config.trainer.processes
    if count == 1:
        return trainer
    job = {"config": config.model_dump(mode="json"), "name": name, "versions": package_versions()}
    return GroupTrainer(trainer, count, job, config.trainer.launcher)


def build_one_process_trainer(config: RunConfig, name: str) -> Trainer:
    """What each process that trains the model `name` runs. Imports TRL only here, because it is slow to import."""
    settings, objective, training = trainer_of(config, name), config.objective, Training(config.output, name)
    if round_number(name):
        if isinstance(objective, DPOObjective):
            from selfevo.trainers.dpo import PreferenceTrainer

            return PreferenceTrainer(settings, objective, training)
        if isinstance(objective, GRPOObjective):
            from selfevo.trainers.grpo import VerdictRewardTrainer

            alone = config.engine.model_copy(update={"workers": 0})  # beside the model in training
            judge = partial(build_engine, alone)
            return VerdictRewardTrainer(settings, objective, config.skills, judge, config.wording, training)
        if make := getattr(build_objective(config), "trainer", None):
            trainer: Trainer = make(settings)
            return trainer
    from selfevo.trainers.sft import TRLTrainer

    return TRLTrainer(settings, training)


def build_teacher(
    corpus: TaskCorpus | PromptsCorpus,
    problems: Mapping[str, Problem],
    ledger: Ledger | None = None,
    wording: Wording = ENGLISH,
) -> Teacher:
    """The annotator of a corpus. With a task it gets the gold answers of `problems`, by prompt id.

    `ledger` records what it costs.
    """
    task = load_task(corpus.task) if isinstance(corpus, TaskCorpus) else None
    annotator = corpus.annotator
    if isinstance(annotator, OwnPart):
        told: dict[str, Any] = {"task": task, "problems": problems} if task else {}
        teacher: Teacher = make_part(annotator.kind, annotator.options, Teacher, "an annotator", **told)
        return BookedTeacher(teacher, ledger or Ledger())
    if annotator is not None:
        from selfevo.models.endpoint import Endpoint  # needs an extra
        from selfevo.teachers.openai import OpenAITeacher

        return OpenAITeacher(annotator, Endpoint(annotator, ledger), task, problems, wording)
    assert task is not None  # only a corpus with a task may have no annotator
    return OracleTeacher(task, problems)


def trainer_of(config: RunConfig, name: str) -> TrainerConfig:
    """The trainer's settings for the model `name`. The warm-up and the rounds may have their own.

    The result does not hold the settings of rounds under their own names, so that two runs that
    differ only in these share their other models.
    """
    trainer = config.trainer
    own: dict[str, float | None] = {}
    if name == WARM_UP and isinstance(config.corpus, TaskCorpus):
        own = {"num_train_epochs": config.corpus.warmup_epochs}
    elif round_number(name):
        own = {"num_train_epochs": trainer.round_epochs, "learning_rate": trainer.round_learning_rate}
    used = {key: value for key, value in own.items() if value is not None}
    return trainer.model_copy(update={**used, "round_epochs": None, "round_learning_rate": None})


def describe_platform() -> dict[str, str]:
    """The platform facts that a timing depends on. Nothing that identifies the machine or its owner."""
    import torch  # takes a second, and few commands need it

    versions = {name: version for name, version in package_versions().items() if name != "selfevo"}
    here = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    device = {"device": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {**here, **device, **versions}


def package_versions() -> dict[str, str]:
    """Those of this package and of the ones that a training's weights depend on."""
    packages = ("selfevo", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return {name: importlib.metadata.version(name) for name in packages}


def run_system(model: Path) -> str:
    """The system prompt with which the run that made `model` asked prompts without one; "" if there was none."""
    return str(run_settings(model).get("system", ""))


def thinking_of(model: Path) -> Thinking:
    """What the run that made `model` did with its thinking; else the default."""
    found = run_settings(model).get("thinking")
    return next((each for each in get_args(Thinking) if each == found), "drop")


def build_sampling(model: Path, max_new_tokens: int | None = None) -> dict[str, Sampling]:
    """Greedy sampling settings for each skill.

    The limit is `max_new_tokens` if given, else that of the run that made `model`, else the
    default.
    """
    skills = parse(SkillsConfig, run_settings(model).get("skills", {}), f"the run of {model}: skills")
    limits = {name: getattr(skills, name).max_new_tokens for name in SkillsConfig.model_fields}
    return {name: Sampling(max_new_tokens or limit) for name, limit in limits.items()}
