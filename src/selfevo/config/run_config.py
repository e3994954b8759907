"""Typed configuration of a run: YAML plus dotted overrides. Unknown keys and wrong types are errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from selfevo.config.base import Positive, Strict
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
    TrainerConfig,
    TransformersSettings,
    VLLMSettings,
)
from selfevo.config.sources import CorpusConfig, GateConfig, PromptsConfig, Rounds, TaskCorpus, TaskPrompts
from selfevo.method.filters import ByVerdict


class RunConfig(Strict):
    """One run of the SELF loop."""

    model: str = Field(description="the base model: a folder or a hub id")
    output: Path = Field(description="the run directory; the same one resumes")
    seed: int = Field(0, description="draws problems, sampling and the order of training")
    prompts: PromptsConfig | None = Field(None, description="the pool of unlabelled prompts")
    corpus: CorpusConfig = Field(description="D_meta, which teaches the two meta-skills")
    evaluation: EvaluationConfig | None = Field(
        None, description="held-out problems on which every model is measured; default: none is"
    )
    rounds: Rounds = Field(
        3, description="how many, prompts split evenly between them; or a list, the source of each, without prompts"
    )
    decontaminate: tuple[str, ...] = Field(
        (), description="further evaluation sets (file, folder, data set) whose prompts no pool may hold"
    )
    policy: Literal["restart", "continual-mixed", "continual-latest"] = Field(
        "restart",
        description="what a round trains: the base on D_meta and all rows kept so far (restart, the paper's), the "
        "latest model on the same (continual-mixed), or the latest model on its own rows alone (continual-latest)",
    )
    beta: float = Field(1.0, ge=0, description="weight of log P(r^ | p) in L_meta")
    objective: ObjectiveConfig = Field(SFTObjective(), description="what the rounds learn from the rows they kept")
    samples_per_prompt: Positive = Field(
        1, description="responses to each prompt of a round, each criticised and refined"
    )
    filter: Filters = Field(
        (ByVerdict(),), description="one, or several that each row has to pass: docs/guides/filters.md"
    )
    gate: GateConfig | None = Field(
        None, description="stop when rounds bring no significant gain; default: run them all"
    )
    audit: AuditConfig | None = Field(None, description="default: the pool's own answers, where it is a task")
    monitors: MonitorsConfig = Field(MonitorsConfig(), description="bounds on what the rows of a round say")
    skills: SkillsConfig = Field(SkillsConfig(), description="how each skill samples during a round")
    trainer: TrainerConfig = Field(TrainerConfig(), description="of every training of the run")
    engine: EngineConfig = Field(TransformersSettings(), description="who generates")
    ablation: AblationConfig = Field(AblationConfig(), description="what only ablations change")

    @property
    def round_count(self) -> int:
        return self.rounds if isinstance(self.rounds, int) else len(self.rounds)

    @property
    def default_pool(self) -> int:
        """How many prompts a task draws for all the rounds where no count is given."""
        return 300 * self.round_count

    @model_validator(mode="after")
    def _one_pool(self) -> RunConfig:
        if isinstance(self.rounds, int):
            if self.prompts is None:
                raise ValueError("'prompts' is missing; add it, or give each of the rounds its own")
        elif self.prompts is not None:
            raise ValueError("both prompts and a list of rounds are given; move prompts into the first round")
        elif not self.rounds or self.rounds[0].prompts is None:
            raise ValueError("the first round needs prompts; a model writes new ones from those it has seen")
        return self

    @model_validator(mode="after")
    def _preferences(self) -> RunConfig:
        objective = self.objective
        if isinstance(objective, DPOObjective | GRPOObjective) and self.policy != "continual-latest":
            raise ValueError(f"objective {objective.kind} trains without L_meta; set policy: continual-latest")
        if isinstance(objective, DPOObjective) and not self.ablation.refine:
            raise ValueError("objective dpo prefers r^ to r; with ablation.refine: false they are the same")
        if isinstance(objective, GRPOObjective):
            sizes = sorted((self.trainer.per_device_train_batch_size, objective.num_generations))
            if sizes[1] % sizes[0]:
                raise ValueError(
                    f"objective grpo: of batch size and num_generations, {sizes}, one has to divide the other"
                )
            if isinstance(self.engine, VLLMSettings):
                raise ValueError(
                    "objective grpo: a judge in vLLM leaves training no memory; set engine.kind: transformers"
                )
        return self

    @model_validator(mode="after")
    def _known_answers(self) -> RunConfig:
        sources = [self.prompts] if isinstance(self.rounds, int) else [each.prompts for each in self.rounds]
        if self.ablation.gold_filter and not all(isinstance(each, TaskPrompts) for each in sources):
            raise ValueError("ablation.gold_filter needs known answers: every round's prompts have to come from a task")
        return self

    @model_validator(mode="after")
    def _further_labels(self) -> RunConfig:
        wanted, corpus = self.ablation.sft_labels, self.corpus
        if wanted is None:
            return self
        if self.evaluation is None:
            raise ValueError("ablation.sft_labels is of a baseline that is only measured; give an evaluation")
        if not isinstance(corpus, TaskCorpus) or self.ablation.label_share < 1 or wanted < corpus.labels:
            found = f", {corpus.labels}" if isinstance(corpus, TaskCorpus) else ""
            raise ValueError(
                f"ablation.sft_labels={wanted} adds to the labels of corpus.task: it needs one, all of it "
                f"(ablation.label_share 1), and at least corpus.labels{found}"
            )
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> RunConfig:
        if self.samples_per_prompt > 1 and self.skills.respond.temperature == 0:
            raise ValueError("samples_per_prompt above 1 needs skills.respond.temperature above 0, or all are the same")
        return self

    @field_validator("output")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return value.expanduser()
