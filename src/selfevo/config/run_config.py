"""The typed configuration of a run. Unknown keys and wrong types are errors that name the place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from selfevo.config.base import Positive, Strict, SystemPrompt, unless_default
from selfevo.config.cluster import ClusterConfig
from selfevo.config.sections import (
    AblationConfig,
    AuditConfig,
    DPOObjective,
    EngineConfig,
    EvaluationConfig,
    Filters,
    GRPOObjective,
    MonitorsConfig,
    ObjectiveConfig,
    SFTObjective,
    SkillsConfig,
    TransformersSettings,
    VLLMSettings,
)
from selfevo.config.sources import (
    CorpusConfig,
    FilePrompts,
    GateConfig,
    PromptsConfig,
    Rounds,
    TaskCorpus,
    TaskPrompts,
    as_path,
)
from selfevo.config.training import TrainerConfig
from selfevo.method.filters import ByVerdict
from selfevo.method.names import BASE, META, SFT
from selfevo.method.prompts import Wording
from selfevo.method.thinking import Thinking

PROMPTS_PER_ROUND = 300  # of a task whose count is not given


class RunConfig(Strict):
    """One run of the SELF loop."""

    model: str = Field(description="the base model: a folder, or owner/name or owner/name@revision on the hub")
    output: Path = Field(description="the run directory; give the same one to resume")
    seed: int = Field(0, ge=0, lt=2**32, description="draws problems, sampling and the order of training")
    system: SystemPrompt = Field(
        "", description="system prompt of every prompt that has none: pool, D_meta, problems, gate"
    )
    prompts: PromptsConfig | None = Field(None, description="the pool of unlabelled prompts")
    corpus: CorpusConfig | None = Field(
        None,
        description="D_meta, which teaches the two meta-skills; default: none, for a model that has them already, such "
        "as that of an earlier run",
    )
    evaluation: EvaluationConfig | None = Field(
        None, description="held-out problems on which every model is measured; default: no measurement"
    )
    rounds: Rounds = Field(
        3,
        description="number of rounds, which share the prompts evenly; or a list with the source of each round, and "
        "then no prompts",
    )
    decontaminate: tuple[Annotated[FilePrompts, BeforeValidator(as_path)], ...] = Field(
        (),
        description="further evaluation sets whose prompts are removed from every pool; a text is short for its path",
    )
    policy: Literal["restart", "continual-mixed", "continual-latest"] = Field(
        "restart",
        description="what a round trains: the base on D_meta and all rows kept so far (restart, as in the paper), the "
        "latest model on the same (continual-mixed), or the latest model only on its own rows (continual-latest)",
    )
    beta: float = Field(1.0, ge=0, description="weight of log P(r^ | p) in L_meta")
    objective: ObjectiveConfig = Field(SFTObjective(), description="how the rounds learn from the kept rows")
    samples_per_prompt: Positive = Field(
        1, description="responses to each prompt of a round; each one is criticised and refined"
    )
    filter: Filters = Field(
        (ByVerdict(),), description="one filter, or several that each row must pass: docs/guides/filters.md"
    )
    gate: GateConfig | None = Field(
        None, description="stops the run when rounds bring no significant gain; default: all rounds run"
    )
    audit: AuditConfig | None = Field(
        None, description="problems for the audit; default: those of the pool, if it is a task"
    )
    monitors: MonitorsConfig = Field(MonitorsConfig(), description="bounds on figures of a round's rows")
    wording: Wording = Field(Wording(), description="the words that the model is asked with and judges in")
    skills: SkillsConfig = Field(SkillsConfig(), description="how each skill samples during a round")
    chat_template: str | None = Field(
        None, description="a Jinja template, or a file with one, for every model of the run; default: the model's"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="variables of the chat template, such as enable_thinking: false; saved with every model"
    )
    eos_token: str | None = Field(
        None, description="the token that ends an assistant turn; default: the one that the chat template writes"
    )
    thinking: Thinking = Field(
        "drop",
        description="what becomes of the think block at the start of a model's text: drop; keep, to train on it (no "
        "verdict, critic or judge sees it); or show, as a part of the answer that critic and judge read",
    )
    trainer: TrainerConfig = Field(TrainerConfig(), description="settings of every training of the run")
    engine: EngineConfig = Field(TransformersSettings(), description="what generates text")
    cluster: ClusterConfig = unless_default(ClusterConfig(), description="where the workers of engine.workers run")
    ablation: AblationConfig = Field(AblationConfig(), description="settings that only ablations change")

    @field_validator("output")
    @classmethod
    def _a_name(cls, value: Path) -> Path:
        """What every file system allows, so that a mistake is found before anything is loaded."""
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in str(value)):
            raise ValueError(f"{str(value)!r} is no name of a directory; give another one")
        if longest := [part for part in value.parts if len(part.encode()) > 255]:
            raise ValueError(f"{longest[0][:40]}... has {len(longest[0].encode())} bytes; a name has at most 255")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in ("messages", "add_generation_prompt"):
                raise ValueError(f"{name!r} is no variable that can be set; remove it")
        return value

    @property
    def round_count(self) -> int:
        return self.rounds if isinstance(self.rounds, int) else len(self.rounds)

    @property
    def first_model(self) -> str:
        """The name of M_0, the first model with the meta-skills: the base model itself if no corpus teaches them."""
        return META if self.corpus else BASE

    @property
    def default_pool(self) -> int:
        """How many prompts a task draws for all rounds together, if no count is given."""
        return PROMPTS_PER_ROUND * self.round_count

    @model_validator(mode="after")
    def _one_pool(self) -> RunConfig:
        if isinstance(self.rounds, int):
            if self.prompts is None:
                raise ValueError("'prompts' is missing; add it, or give rounds as a list with the prompts of each")
        elif self.prompts is not None:
            raise ValueError("both prompts and a list of rounds are given; move prompts into the first round")
        elif not self.rounds or self.rounds[0].prompts is None:
            raise ValueError(
                "the first round has no prompts; add them, because a model writes new prompts from those it has seen"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _measured_without_corpus(cls, data: Any) -> Any:
        """Without a corpus there are no labels for sft, and no model that learns the meta-skills alone."""
        evaluation = data.get("evaluation") if isinstance(data, dict) else None
        if isinstance(evaluation, dict) and data.get("corpus") is None and "models" not in evaluation:
            return {**data, "evaluation": {**evaluation, "models": [BASE, "rounds"]}}
        return data

    @model_validator(mode="after")
    def _without_corpus(self) -> RunConfig:
        if self.corpus is not None:
            return self
        if found := [name for name in (SFT, META) if self.evaluation and name in self.evaluation.models]:
            raise ValueError(
                f"evaluation.models names {' and '.join(found)}, and a run without a corpus trains no such model; add "
                "a corpus, or leave the name out"
            )
        about_labels = ("label_share", "flipped_verdicts", "verdict_only", "sft_labels")
        default = AblationConfig()
        if changed := [name for name in about_labels if getattr(self.ablation, name) != getattr(default, name)]:
            raise ValueError(f"ablation.{changed[0]} is about the labels of a corpus; add a corpus, or leave it out")
        return self

    @model_validator(mode="after")
    def _preferences(self) -> RunConfig:
        objective = self.objective
        if isinstance(objective, DPOObjective | GRPOObjective) and self.policy != "continual-latest":
            raise ValueError(
                f"objective {objective.kind} trains without L_meta, which policy {self.policy} needs; "
                "set policy: continual-latest"
            )
        if isinstance(objective, DPOObjective) and not self.ablation.refine:
            raise ValueError(
                "objective dpo prefers r^ to r, and ablation.refine: false makes them equal; change one of the two"
            )
        if isinstance(objective, GRPOObjective):
            if self.trainer.sharding != "none":
                raise ValueError(
                    f"objective grpo generates with the model that it trains, which trainer.sharding "
                    f"{self.trainer.sharding} has in parts; leave sharding out"
                )
            sizes = sorted((self.trainer.per_device_train_batch_size, objective.num_generations))
            if sizes[1] % sizes[0]:
                raise ValueError(
                    f"objective grpo: trainer.per_device_train_batch_size and objective.num_generations are {sizes}; "
                    "change one so that one divides the other"
                )
            if self.trainer.eval_share:
                raise ValueError(
                    "objective grpo has rewards, and no loss to measure on held-out examples; remove trainer.eval_share"
                )
            device = getattr(self.engine, "device", "auto")
            if self.trainer.processes > 1 and ":" in device:
                raise ValueError(
                    f"objective grpo: each process judges its own responses, and engine.device is {device} for all of "
                    "them; set engine.device: cuda"
                )
            if isinstance(self.engine, VLLMSettings):
                raise ValueError(
                    "objective grpo: a judge in vLLM leaves no memory for training; set engine.kind: transformers"
                )
        return self

    @model_validator(mode="after")
    def _workers(self) -> RunConfig:
        device = getattr(self.engine, "device", "auto")
        if self.engine.workers and ":" in device:
            raise ValueError(
                f"engine.device is {device}, and Ray gives each of engine.workers a device of its own; set cuda or auto"
            )
        if not self.engine.workers and self.cluster != ClusterConfig():
            raise ValueError("cluster is where engine.workers run, and there are none; set engine.workers")
        return self

    @model_validator(mode="after")
    def _known_answers(self) -> RunConfig:
        sources = [self.prompts] if isinstance(self.rounds, int) else [each.prompts for each in self.rounds]
        if self.ablation.gold_filter and not all(isinstance(each, TaskPrompts) for each in sources):
            raise ValueError("ablation.gold_filter needs known answers; take the prompts of every round from a task")
        return self

    @model_validator(mode="after")
    def _further_labels(self) -> RunConfig:
        wanted, corpus = self.ablation.sft_labels, self.corpus
        if wanted is None:
            return self
        if self.evaluation is None:
            raise ValueError("ablation.sft_labels is for a baseline, which needs an evaluation; add evaluation")
        if not isinstance(corpus, TaskCorpus) or self.ablation.label_share < 1 or wanted < corpus.labels:
            found = f", {corpus.labels}" if isinstance(corpus, TaskCorpus) else ""
            raise ValueError(
                f"ablation.sft_labels={wanted} extends the labels of corpus.task; give a corpus.task, set "
                f"ablation.label_share: 1, and make sft_labels at least corpus.labels{found}"
            )
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> RunConfig:
        if self.samples_per_prompt > 1 and self.skills.respond.temperature == 0:
            raise ValueError(
                f"samples_per_prompt is {self.samples_per_prompt}; set skills.respond.temperature above 0, or all "
                "samples are the same"
            )
        return self

    @field_validator("output")
    @classmethod
    def _home(cls, value: Path) -> Path:
        try:
            return value.expanduser()
        except RuntimeError:
            raise ValueError(f"{value.parts[0]} stands for no home directory; write the path out") from None
