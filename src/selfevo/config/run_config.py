"""Typed configuration of a run: YAML plus dotted overrides. Unknown keys and wrong types are errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from selfevo.config.sections import (
    AuditConfig,
    CorpusConfig,
    EngineConfig,
    EvaluationConfig,
    GateConfig,
    MonitorsConfig,
    Positive,
    PromptsConfig,
    SelfInstructConfig,
    SkillsConfig,
    Strict,
    TrainerConfig,
    exactly_one,
)
from selfevo.method.filters import ByGold, ByVerdict, Filters


class RoundConfig(Strict):
    """Where the prompts of one round come from."""

    prompts: PromptsConfig | None = Field(None, description="as prompts of the run; a text is its path")
    self_instruct: SelfInstructConfig | None = None

    @field_validator("prompts", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> RoundConfig:
        exactly_one(self, ("prompts", "self_instruct"))
        return self


# Tagged, so that a mistake is told of the one or the other, not of both.
TAGS = ("rounds as a number", "rounds as a list")
Rounds = Annotated[
    Annotated[Positive, Tag(TAGS[0])] | Annotated[tuple[RoundConfig, ...], Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list | tuple)]),
]


class RunConfig(Strict):
    """One run of the SELF loop."""

    model: str = Field(description="the base model: a folder or a hub id")
    output: Path = Field(description="the run directory; the same one resumes")
    seed: int = 0
    prompts: PromptsConfig | None = Field(None, description="the pool of unlabelled prompts")
    corpus: CorpusConfig
    evaluation: EvaluationConfig | None = None
    rounds: Rounds = Field(
        3, description="how many, prompts split evenly between them; or a list, the source of each, without prompts"
    )
    decontaminate: tuple[str, ...] = Field(
        (), description="further evaluation sets (file, folder, data set) whose prompts no pool may hold"
    )
    policy: Literal["restart", "continual-mixed", "continual-latest"] = "restart"
    beta: float = Field(1.0, ge=0, description="weight of log P(r^ | p) in L_meta")
    objective: Literal["sft", "dpo", "grpo"] = Field(
        "sft",
        description="of the rounds; dpo prefers r^ to r, grpo rewards the verdict: baselines without L_meta, so the "
        "policy has to be continual-latest",
    )
    refine: bool = Field(True, description="false, the ablation: r itself is judged, and trained on if it passes")
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
    monitors: MonitorsConfig = MonitorsConfig()
    skills: SkillsConfig = SkillsConfig()
    trainer: TrainerConfig = TrainerConfig()
    engine: EngineConfig = EngineConfig()

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
        if self.objective != "sft" and self.policy != "continual-latest":
            raise ValueError(f"objective {self.objective} trains without L_meta; set policy: continual-latest")
        if self.objective == "dpo" and not self.refine:
            raise ValueError("objective dpo prefers r^ to r; without refine they are the same")
        if self.objective == "grpo":
            sizes = sorted((self.trainer.per_device_train_batch_size, self.trainer.num_generations))
            if sizes[1] % sizes[0]:
                raise ValueError(
                    f"objective grpo: of batch size and num_generations, {sizes}, one has to divide the other"
                )
            if self.engine.kind == "vllm":
                raise ValueError(
                    "objective grpo: a judge in vLLM leaves training no memory; set engine.kind: transformers"
                )
        return self

    @model_validator(mode="after")
    def _known_answers(self) -> RunConfig:
        sources = [self.prompts] if isinstance(self.rounds, int) else [each.prompts for each in self.rounds]
        if any(isinstance(each, ByGold) for each in self.filter) and not all(s and s.task for s in sources):
            raise ValueError("filter gold needs known answers: every round's prompts have to come from a task")
        return self

    @model_validator(mode="after")
    def _further_labels(self) -> RunConfig:
        wanted, corpus = self.evaluation and self.evaluation.sft_labels, self.corpus
        if wanted and not (corpus.task and corpus.share == 1 and wanted >= corpus.labels):
            raise ValueError(
                f"evaluation.sft_labels={wanted} adds to the labels of corpus.task: it needs one, all of it "
                f"(corpus.share 1), and at least corpus.labels, {corpus.labels}"
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
