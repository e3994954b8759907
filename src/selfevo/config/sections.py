"""The sections of a configuration; those told apart by their source are in sources.py, the whole in run_config.py.

Hyper-parameters carry the names that transformers, TRL and PEFT give them. docs/reference/configuration.md is
generated from these types (`python docs/generate_configuration.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from selfevo.config.base import BUILT_IN, OWN, OwnPart, Positive, Share, Strict, kind_or, own_or_built_in
from selfevo.method.filters import ByAgreement, ByVerdict, ByVotes, Distinct, KeepAll, Length, MaxPerPrompt
from selfevo.method.protocols import Sampling


class TaskConfig(Strict):
    """Problems whose answers a program can check."""

    name: str = Field(
        description="demo or one of its kinds; instructions; gsm8k, svamp, math; gym:NAME; or package.module:Name"
    )
    path: Path | None = Field(None, description="file of problems, for gsm8k, svamp and math")
    options: dict[str, Any] = Field({}, description="arguments of a reasoning-gym generator, or of your own task")

    @property
    def own(self) -> bool:
        """Whether it is a part from outside this package, package.module:Name."""
        source, colon, _ = self.name.partition(":")
        return bool(colon) and source not in ("gym", "instructions")

    @model_validator(mode="after")
    def _path_in_options(self) -> TaskConfig:
        if self.own and self.path is not None:
            raise ValueError(f"path is for tasks of this package; give it to {self.name} in options")
        return self


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
    limit_name: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None,
        description="what the server calls max_new_tokens; by default the second at api.openai.com, else the first",
    )

    @model_validator(mode="after")
    def _both_prices(self) -> EndpointConfig:
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price and output_price belong together; give both, or neither for known prices")
        return self

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


class OpenAIAnnotator(EndpointConfig):
    """A stronger model behind a server, which writes feedback and refinement."""

    kind: Literal["openai"] = "openai"
    max_new_tokens: Positive = Field(2048, description="of one annotation")
    temperature: float | None = Field(None, ge=0, description="by default the server's")
    response_format: Literal["json_schema", "json_object", "text"] = Field(
        "json_schema", description="how the server is asked for JSON; text only asks in words"
    )


AnnotatorConfig = Annotated[
    Annotated[OpenAIAnnotator, Tag(BUILT_IN)] | Annotated[OwnPart, Tag(OWN)],
    Discriminator(own_or_built_in),
    kind_or("openai"),
]


class EvaluationConfig(Strict):
    """Held-out problems on which every model is measured."""

    task: TaskConfig
    count: Positive = Field(300, description="problems, the same for every model")
    consistency: Positive = Field(1, description="above 1: so many samples vote too, before and after refinement")
    models: tuple[Literal["base", "sft", "meta", "rounds"], ...] = Field(
        ("base", "sft", "meta", "rounds"), description="which of them; sft trains the supervised baseline"
    )


def _listed(value: Any) -> Any:
    """One filter is short for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


BuiltInFilter = Annotated[
    ByVerdict | ByVotes | ByAgreement | KeepAll | MaxPerPrompt | Length | Distinct, Field(discriminator="kind")
]
FilterConfig = Annotated[
    Annotated[BuiltInFilter, Tag(BUILT_IN)] | Annotated[OwnPart, Tag(OWN)], Discriminator(own_or_built_in), kind_or()
]
Filters = Annotated[tuple[FilterConfig, ...], BeforeValidator(_listed), Field(min_length=1)]


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

    respond: SamplingConfig = Field(SamplingConfig(temperature=0.7), description="r, the first response")
    critique: SamplingConfig = Field(SamplingConfig(max_new_tokens=512), description="f, the feedback on r")
    refine: SamplingConfig = Field(SamplingConfig(), description="r^, the refined response")
    judge: SamplingConfig = Field(SamplingConfig(max_new_tokens=512), description="v, the feedback on r^")


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
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="of matrix products")
    device: str = Field("auto", description="auto, cpu or cuda")
    lora: LoraSettings | None = Field(None, description="train low-rank adapters, merged before saving; default full")
    save_minutes: float = Field(10, gt=0, description="minutes between checkpoints a killed training resumes from")


class SFTObjective(Strict):
    """The method: a round learns log P(r^ | p) from the rows it kept."""

    kind: Literal["sft"] = "sft"


class DPOObjective(Strict):
    """A baseline without L_meta: prefers r^ to r. The policy has to be continual-latest."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="how near the model stays to the one before")


class GRPOObjective(Strict):
    """A baseline without L_meta: rewards the model's own verdict. The policy has to be continual-latest."""

    kind: Literal["grpo"] = "grpo"
    num_generations: int = Field(8, ge=2, description="responses to each prompt")
    beta: float = Field(0.0, ge=0, description="weight of the distance from the model before")


ObjectiveConfig = Annotated[
    Annotated[Annotated[SFTObjective | DPOObjective | GRPOObjective, Field(discriminator="kind")], Tag(BUILT_IN)]
    | Annotated[OwnPart, Tag(OWN)],
    Discriminator(own_or_built_in),
    kind_or("sft"),
]


class TransformersSettings(Strict):
    """Generates with transformers, on a CPU or a GPU."""

    kind: Literal["transformers"] = "transformers"
    batch_size: Positive = Field(128, description="rows at once, and what a kill can cost")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = Field("auto", description="auto, cpu or cuda")
    kv_cache_gib: float = Field(
        2.0,
        ge=0,
        description="memory for states of conversations kept from stage to stage; 0 turns it off, and a killed "
        "half-precision run then ends with the same bytes",
    )


class VLLMSettings(Strict):
    """Generates with vLLM, which needs an environment of its own: requirements-vllm.txt."""

    kind: Literal["vllm"] = "vllm"
    batch_size: Positive = Field(128, description="rows at once, and what a kill can cost; vLLM likes more")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_gib: float = Field(2.0, ge=0, description="memory for keys and values on a CPU")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the device's memory")


EngineConfig = Annotated[
    Annotated[Annotated[TransformersSettings | VLLMSettings, Field(discriminator="kind")], Tag(BUILT_IN)]
    | Annotated[OwnPart, Tag(OWN)],
    Discriminator(own_or_built_in),
    kind_or("transformers"),
]


class MeasureConfig(Strict):
    """What `selfevo eval` asks of one model."""

    task: TaskConfig
    count: Positive = Field(300, description="problems")
    seed: int = 0
    consistency: Positive = Field(1, description="above 1: so many samples vote too, before and after refinement")
    max_new_tokens: Positive | None = Field(None, description="of each text; by default as in the run of the model")
    engine: EngineConfig = Field(TransformersSettings(), description="who generates")
    endpoint: EndpointConfig | None = Field(None, description="the server that the model is behind, in place of engine")


class AblationConfig(Strict):
    """What only ablations change: a run that is meant to be used leaves it out."""

    label_share: float = Field(1.0, gt=0, le=1, description="share of D_meta's prompts that is used: fewer labels")
    flipped_verdicts: Share = Field(0.0, description="share of D_meta's verdicts that is turned round: worse labels")
    verdict_only: bool = Field(False, description="of each feedback of D_meta only the verdict is taught, no language")
    refine: bool = Field(True, description="false: r itself is judged, and trained on if it passes")
    gold_filter: bool = Field(
        False,
        description="keep what is right, in place of the filters that judge: the upper bound of every filter. Needs "
        "prompts from tasks; a run with it is no self-evolution",
    )
    sft_labels: Positive | None = Field(
        None, description="labels of the supervised baseline; more than corpus.labels show what SELF saves"
    )
