"""Typed configuration of a run: YAML plus dotted overrides. Unknown keys and wrong types are errors that say where.

Hyper-parameters carry the names that transformers, TRL and PEFT give them. docs/configuration.md is generated from
these types (`python docs/generate_configuration.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from selfevo.data import MAX_BAD_SHARE
from selfevo.filters import ByGold, ByVerdict, Filters
from selfevo.protocols import Sampling

Section = TypeVar("Section", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TaskConfig(_Strict):
    """Problems whose answers a program can check."""

    name: str = Field(description="demo or one of its kinds; instructions; gsm8k, svamp, math; gym:NAME")
    path: Path | None = Field(None, description="file of problems, for gsm8k, svamp and math")
    options: dict[str, Any] = Field({}, description="arguments of a reasoning-gym generator")


class PromptsConfig(_Strict):
    """The pool of unlabelled prompts: from a file, or the questions of a task with their answers withheld."""

    path: str | None = Field(None, description="JSONL, parquet, a folder saved by datasets, or a hub data set")
    column: str = Field("prompt", description="the text column")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="share of unusable rows of a file that stops the run")
    task: TaskConfig | None = None
    count: Positive | None = Field(None, description="how many; by default all of a file")

    @model_validator(mode="after")
    def _one_source(self) -> PromptsConfig:
        _exactly_one(self, ("path", "task"))
        return self


class ColumnsConfig(_Strict):
    """What your file calls the four parts of a trajectory."""

    prompt: str = "prompt"
    response: str = "response"
    feedback: str = "feedback"
    refinement: str = "refinement"


class EndpointConfig(_Strict):
    """A model behind a server that speaks the OpenAI protocol."""

    model: str = Field(description="the name the server knows it by")
    base_url: str = Field("https://api.openai.com/v1", description="where the server is")
    api_key_env: str | None = Field("OPENAI_API_KEY", description="variable that holds the key; null if none is asked")
    max_concurrency: Positive = Field(16, description="calls at once")
    timeout_seconds: float = Field(120, gt=0, description="of one attempt")
    max_retries: int = Field(6, ge=0, description="after a 429, a 5xx, a timeout or a broken reply")
    max_dollars: float | None = Field(None, gt=0, description="stop before more is spent")
    max_total_tokens: Positive | None = Field(None, description="the same in tokens, read and written")
    input_price: float | None = Field(None, ge=0, description="dollars per million tokens; default: known prices")
    output_price: float | None = Field(None, ge=0, description="the same for what it writes")

    @field_validator("base_url")
    @classmethod
    def _no_secrets(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give the server's address, http://... or https://...")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "an address with a user name, password or query could hold a key; name its variable in api_key_env"
            )
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise ValueError("name an environment variable, such as OPENAI_API_KEY; a key itself is never written here")
        return value


class AnnotatorConfig(EndpointConfig):
    """A stronger model that writes feedback and refinement."""

    max_new_tokens: Positive = Field(2048, description="of one annotation")
    temperature: float | None = Field(None, ge=0, description="by default the server's")
    response_format: Literal["json_schema", "json_object", "text"] = Field(
        "json_schema", description="how the server is asked for JSON; text only asks in words"
    )


class CorpusConfig(_Strict):
    """D_meta: recorded trajectories in a file, or made here: the model answers, an annotator criticises and refines.

    With a task the annotator is a program that holds its answers; with `annotator` a model behind a server, which is
    told the answers where there are any.
    """

    path: str | None = Field(None, description="rows with prompt, response, feedback, refinement")
    prompts: str | None = Field(None, description="prompts without answers, for an annotator: file, folder or data set")
    column: str = Field("prompt", description="with prompts: the text column")
    columns: ColumnsConfig = Field(ColumnsConfig(), description="with path: your names for the four columns")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="with path: share of unusable rows that stops the run")
    task: TaskConfig | None = None
    annotator: AnnotatorConfig | None = Field(None, description="a model that annotates, with task or prompts")
    labels: Positive = Field(240, description="with task or prompts: annotated prompts")
    samples_per_prompt: Positive = Field(
        8, description="with task: responses sampled per prompt; one right and one wrong of them are criticised"
    )
    warmup_share: Share = Field(
        0.5, description="with task: share of the labels on which a throw-away model first learns to answer at all"
    )
    warmup_epochs: float = Field(8, gt=0, description="with task: epochs of that warm-up; warmup_share 0 leaves it out")
    temperature: float = Field(0.8, ge=0, description="at which the responses that are criticised are sampled")
    share: float = Field(1.0, gt=0, le=1, description="share of D_meta's prompts that is used: fewer labels")
    flipped: Share = Field(0.0, description="share of its verdicts that is turned round: worse labels")
    words: bool = Field(True, description="false: of each feedback only its verdict is taught, no language")

    @model_validator(mode="after")
    def _one_source(self) -> CorpusConfig:
        _exactly_one(self, ("path", "prompts", "task"))
        if self.prompts and not self.annotator:
            raise ValueError("prompts have no answers a program could check; add an annotator, or give a task")
        if self.path and self.annotator:
            raise ValueError("the rows of path are annotated already; remove annotator, or give prompts instead")
        return self


class EvaluationConfig(_Strict):
    """Held-out problems on which every model is measured."""

    task: TaskConfig
    count: Positive = Field(300, description="problems, the same for every model")
    consistency: Positive = Field(1, description="above 1: so many samples vote too, before and after refinement")
    stages: tuple[Literal["base", "sft", "meta", "rounds"], ...] = Field(
        ("base", "sft", "meta", "rounds"), description="which models; sft trains the supervised baseline"
    )
    sft_labels: Positive | None = Field(
        None, description="with corpus.task: labels of that baseline; more than corpus.labels show what SELF saves"
    )


class GateConfig(_Strict):
    """A dev set kept apart: a round is promoted only if it is significantly better there than the best model so far.

    With a task by right answers. With prompts, which have none, by how much several samples agree and how often the
    model's own verdict is yes: a stand-in, for a model can become sure of what is wrong.
    """

    task: TaskConfig | None = None
    prompts: str | None = Field(None, description="prompts without answers: file, folder or data set")
    column: str = Field("prompt", description="with prompts: the text column")
    count: Positive = Field(200, description="problems or prompts, the same for every model")
    mode: Literal["direct", "refined"] = Field("direct", description="with task: which answer has to be better")
    samples: Positive = Field(5, description="with prompts: responses that should agree")
    temperature: float = Field(0.7, gt=0, description="with prompts: at which they are sampled")
    alpha: float = Field(0.05, gt=0, lt=1, description="significance level of the paired test")
    patience: Positive = Field(1, description="rounds in a row without a significant gain after which the run stops")

    @model_validator(mode="after")
    def _one_source(self) -> GateConfig:
        _exactly_one(self, ("task", "prompts"))
        return self


class AuditConfig(_Strict):
    """Problems with known answers that pass through every round beside the pool, and are never trained on."""

    task: TaskConfig
    count: Positive = 100


class MonitorsConfig(_Strict):
    """Bounds on what a round's rows say without labels; beyond one of them is an alarm. null takes a bound away."""

    on_alarm: Literal["warn", "stop"] = Field("warn", description="stop: end the run before the rows are trained on")
    min_distinct_1: Share | None = Field(None, description="distinct words over all words, in up to 1000 responses")
    min_distinct_2: Share | None = Field(0.02, description="the same of pairs of words")
    max_self_bleu: Share | None = Field(0.98, description="BLEU-4 of responses against each other")
    min_entropy: Share | None = Field(0.05, description="of the answers, over the greatest possible")
    max_truncated: Share | None = Field(0.3, description="share of responses cut at max_new_tokens")
    min_stopped: Share | None = Field(None, description="share of responses that end with the stop token")
    min_yes: Share | None = Field(0.01, description="share of qualified among the readable verdicts on r")
    max_yes: Share | None = Field(0.99, description="the same from above: a critic that always says yes")
    max_judge_yes: Share | None = Field(None, description="the same on r^: a filter that keeps everything")
    max_unparsed: Share | None = Field(0.3, description="share of feedbacks whose verdict cannot be read")
    max_agreement: Share | None = Field(None, description="share of r^ that give the answer of r")

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        values = self.model_dump()
        return {name: value for name, value in values.items() if name != "on_alarm" and value is not None}


class SamplingConfig(_Strict):
    """Names as in transformers' GenerationConfig. Temperature 0 is greedy."""

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: Positive = 256

    def to_sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, self.top_p)


class SkillsConfig(_Strict):
    """How each skill samples during a round. Evaluation is always greedy, with the same limits."""

    respond: SamplingConfig = SamplingConfig(temperature=0.7)
    critique: SamplingConfig = SamplingConfig(max_new_tokens=512)
    refine: SamplingConfig = SamplingConfig()
    judge: SamplingConfig = SamplingConfig(max_new_tokens=512)


class LoraSettings(_Strict):
    """Names as in peft.LoraConfig."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class TrainerConfig(_Strict):
    """Names as in trl.SFTConfig. Applies to every training of the run."""

    learning_rate: float = Field(2e-5, gt=0)
    num_train_epochs: float = Field(3, gt=0)
    round_epochs: float | None = Field(None, gt=0, description="epochs from round 1 on; default num_train_epochs")
    round_learning_rate: float | None = Field(None, gt=0, description="the same; default learning_rate")
    per_device_train_batch_size: Positive = 8
    gradient_accumulation_steps: Positive = 1
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: Share = 0.1
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: Positive = Field(2048, description="tokens; a longer sequence is left out and counted, never cut")
    num_generations: int = Field(8, ge=2, description="with objective grpo: responses to each prompt")
    grpo_beta: float = Field(0.0, ge=0, description="with objective grpo: weight of the distance from the model before")
    dpo_beta: float = Field(0.1, gt=0, description="with objective dpo: how near the model stays to the one before")
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="of matrix products")
    device: str = Field("auto", description="auto, cpu or cuda")
    lora: LoraSettings | None = Field(None, description="train low-rank adapters, merged before saving; default full")
    save_minutes: float = Field(10, gt=0, description="minutes between checkpoints a killed training resumes from")


class EngineConfig(_Strict):
    """Who generates. vLLM needs an environment of its own: requirements-vllm.txt."""

    kind: Literal["transformers", "vllm"] = "transformers"
    batch_size: Positive = Field(128, description="rows at once, and what a kill can cost; vLLM likes more")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = Field("auto", description="auto, cpu or cuda")
    kv_cache_gib: float = Field(
        2.0,
        ge=0,
        description="memory for states of conversations kept from stage to stage; 0 turns it off, and a killed "
        "half-precision run then ends with the same bytes",
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="with vllm: share of the device's memory")


class SelfInstructConfig(_Strict):
    """Prompts of a round that the current model writes itself, from those it has seen."""

    count: Positive = Field(description="how many, at most")
    tries: Positive | None = Field(None, description="proposals; by default twice count")
    examples: Positive = Field(4, description="prompts shown in a request")
    temperature: float = Field(1.0, gt=0)
    min_words: Positive = 3
    max_words: Positive = 150
    max_similarity: float = Field(
        0.8, gt=0, lt=1, description="Jaccard, of character 5-grams; above it: near duplicate"
    )


class RoundConfig(_Strict):
    """Where the prompts of one round come from."""

    prompts: PromptsConfig | None = Field(None, description="as prompts of the run; a text is its path")
    self_instruct: SelfInstructConfig | None = None

    @field_validator("prompts", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> RoundConfig:
        _exactly_one(self, ("prompts", "self_instruct"))
        return self


# Tagged, so that a mistake is told of the one or the other, not of both.
TAGS = ("rounds as a number", "rounds as a list")
Rounds = Annotated[
    Annotated[Positive, Tag(TAGS[0])] | Annotated[tuple[RoundConfig, ...], Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list | tuple)]),
]


class RunConfig(_Strict):
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
    filter: Filters = Field((ByVerdict(),), description="one, or several that each row has to pass: docs/evidence.md")
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


def _exactly_one(section: Any, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(names[:-1])} and {names[-1]}; {', '.join(given) or 'none'} is given"
        )
