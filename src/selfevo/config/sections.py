"""The sections of a configuration (config.py has the whole).

Hyper-parameters carry the names that transformers, TRL and PEFT give them. docs/reference/configuration.md is
generated from these types (`python docs/generate_configuration.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from selfevo.data.loading import MAX_BAD_SHARE
from selfevo.method.protocols import Sampling

Section = TypeVar("Section", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TaskConfig(Strict):
    """Problems whose answers a program can check."""

    name: str = Field(description="demo or one of its kinds; instructions; gsm8k, svamp, math; gym:NAME")
    path: Path | None = Field(None, description="file of problems, for gsm8k, svamp and math")
    options: dict[str, Any] = Field({}, description="arguments of a reasoning-gym generator")


class PromptsConfig(Strict):
    """The pool of unlabelled prompts: from a file, or the questions of a task with their answers withheld."""

    path: str | None = Field(None, description="JSONL, parquet, a folder saved by datasets, or a hub data set")
    column: str = Field("prompt", description="the text column")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="share of unusable rows of a file that stops the run")
    task: TaskConfig | None = None
    count: Positive | None = Field(None, description="how many; by default all of a file")

    @model_validator(mode="after")
    def _one_source(self) -> PromptsConfig:
        exactly_one(self, ("path", "task"))
        return self


class ColumnsConfig(Strict):
    """What your file calls the four parts of a trajectory."""

    prompt: str = "prompt"
    response: str = "response"
    feedback: str = "feedback"
    refinement: str = "refinement"


class EndpointConfig(Strict):
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


class CorpusConfig(Strict):
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
        exactly_one(self, ("path", "prompts", "task"))
        if self.prompts and not self.annotator:
            raise ValueError("prompts have no answers a program could check; add an annotator, or give a task")
        if self.path and self.annotator:
            raise ValueError("the rows of path are annotated already; remove annotator, or give prompts instead")
        return self


class EvaluationConfig(Strict):
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


class GateConfig(Strict):
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
        exactly_one(self, ("task", "prompts"))
        return self


class AuditConfig(Strict):
    """Problems with known answers that pass through every round beside the pool, and are never trained on."""

    task: TaskConfig
    count: Positive = 100


class MonitorsConfig(Strict):
    """Bounds on what a round's rows say without labels; beyond one of them is an alarm. null takes a bound away."""

    on_alarm: Literal["warn", "stop"] = Field("warn", description="stop: end the run before the rows are trained on")
    min_distinct_1: Share | None = Field(None, description="distinct words over all words, in up to 1000 responses")
    min_distinct_2: Share | None = Field(0.02, description="the same of pairs of words")
    max_self_bleu: Share | None = Field(0.98, description="BLEU-4 of responses against each other")
    min_entropy: Share | None = Field(0.05, description="of the answers, over the greatest possible")
    max_truncated: Share | None = Field(0.3, description="share of responses cut at max_new_tokens")
    min_stopped: Share | None = Field(None, description="share of responses that end with the stop token")
    min_yes: Share | None = Field(0.01, description="share of qualified among the readable verdicts on r and r^")
    max_yes: Share | None = Field(0.99, description="the same from above: a critic that always says yes")
    max_critique_yes: Share | None = Field(0.99, description="the same on r alone: nothing is left to refine")
    max_judge_yes: Share | None = Field(None, description="the same on r^ alone: a filter that keeps everything")
    max_unparsed: Share | None = Field(0.3, description="share of feedbacks whose verdict cannot be read")
    max_agreement: Share | None = Field(None, description="share of r^ that give the answer of r")

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        values = self.model_dump()
        return {name: value for name, value in values.items() if name != "on_alarm" and value is not None}


class SamplingConfig(Strict):
    """Names as in transformers' GenerationConfig. Temperature 0 is greedy."""

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: Positive = 256

    def to_sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, self.top_p)


class SkillsConfig(Strict):
    """How each skill samples during a round. Evaluation is always greedy, with the same limits."""

    respond: SamplingConfig = SamplingConfig(temperature=0.7)
    critique: SamplingConfig = SamplingConfig(max_new_tokens=512)
    refine: SamplingConfig = SamplingConfig()
    judge: SamplingConfig = SamplingConfig(max_new_tokens=512)


class LoraSettings(Strict):
    """Names as in peft.LoraConfig."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class TrainerConfig(Strict):
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


class EngineConfig(Strict):
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


class SelfInstructConfig(Strict):
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


def exactly_one(section: Any, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(names[:-1])} and {names[-1]}; {', '.join(given) or 'none'} is given"
        )
