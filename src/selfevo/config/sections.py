"""The sections of a configuration. sources.py has the sections for data, run_config.py the whole.

Hyper-parameters have the same names as in transformers, TRL and PEFT. These types also generate
docs/reference/configuration.md (`python docs/generate_configuration.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, HttpUrl, Tag, field_validator, model_validator

from selfevo.config.base import BUILT_IN, OWN, OwnPart, Positive, Share, Strict, kind_or, own_or_built_in
from selfevo.method.filters import ByAgreement, ByVerdict, ByVotes, Distinct, KeepAll, Length, MaxPerPrompt
from selfevo.method.protocols import Sampling


class TaskConfig(Strict):
    """Problems whose answers a program can check."""

    name: str = Field(
        description="demo or one of its kinds; instructions; gsm8k, svamp, math; gym:NAME; or package.module:Name"
    )
    path: Path | None = Field(None, description="file with the problems, for gsm8k, svamp and math")
    options: dict[str, Any] = Field({}, description="options of a reasoning-gym generator or of your own task")

    @property
    def own(self) -> bool:
        """Whether `name` is your own part, package.module:Name."""
        source, colon, _ = self.name.partition(":")
        return bool(colon) and source not in ("gym", "instructions")

    @model_validator(mode="after")
    def _path_in_options(self) -> TaskConfig:
        if self.own and self.path is not None:
            raise ValueError(f"path {self.path} is only for tasks of this package; give it to {self.name} in options")
        return self


class EndpointConfig(Strict):
    """A model behind a server that speaks the OpenAI protocol."""

    model: str = Field(description="the name of the model on the server")
    base_url: str = Field("https://api.openai.com/v1", description="address of the server")
    api_key_env: str | None = Field("OPENAI_API_KEY", description="environment variable with the key; null: no key")
    max_concurrency: Positive = Field(16, description="calls in parallel")
    timeout_seconds: float = Field(120, gt=0, description="time limit of one attempt")
    max_retries: int = Field(6, ge=0, description="further attempts after a 429, a 5xx, a timeout or a broken reply")
    max_dollars: float | None = Field(None, gt=0, description="stop before the cost exceeds this")
    max_total_tokens: Positive | None = Field(
        None, description="stop before more tokens than this are read and written"
    )
    input_price: float | None = Field(None, ge=0, description="dollars per million tokens read; default: known prices")
    output_price: float | None = Field(
        None, ge=0, description="dollars per million tokens written; default: known prices"
    )
    limit_name: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None,
        description="the server's name for max_new_tokens; default: max_completion_tokens at api.openai.com, else "
        "max_tokens",
    )

    @model_validator(mode="after")
    def _both_prices(self) -> EndpointConfig:
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price and output_price belong together; give both, or neither for known prices")
        return self

    @field_validator("base_url")
    @classmethod
    def _an_address_without_secrets(cls, value: str) -> str:
        try:
            HttpUrl(value)
            parts = urlsplit(value)
            (parts.hostname or "").encode("idna")  # as the client does; the names in it have at most 63 bytes
        except ValueError:
            parts = urlsplit("")
        if not parts.hostname or re.search(r"[\s\\]", value):
            raise ValueError("not the address of a server; give one such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "the address has a user name, password or query, which could hold a key; remove it, and name the "
                "environment variable of the key in api_key_env"
            )
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise ValueError(
                "not the name of an environment variable; give one, such as OPENAI_API_KEY, and never the key itself"
            )
        return value


class OpenAIAnnotator(EndpointConfig):
    """A stronger model behind a server. It writes feedback and refinement."""

    kind: Literal["openai"] = "openai"
    max_new_tokens: Positive = Field(2048, description="token limit of one annotation")
    temperature: float | None = Field(None, ge=0, description="sampling temperature; default: the server's")
    response_format: Literal["json_schema", "json_object", "text"] = Field(
        "json_schema", description="how to ask the server for JSON; text: only in the prompt"
    )


AnnotatorConfig = Annotated[
    Annotated[OpenAIAnnotator, Tag(BUILT_IN)] | Annotated[OwnPart, Tag(OWN)],
    Discriminator(own_or_built_in),
    kind_or("openai"),
]


class EvaluationConfig(Strict):
    """Held-out problems on which every model is measured."""

    task: TaskConfig
    count: Positive = Field(300, description="number of problems, the same for every model")
    consistency: Positive = Field(1, description="above 1: this many samples vote as well, before and after refinement")
    models: tuple[Literal["base", "sft", "meta", "rounds"], ...] = Field(
        ("base", "sft", "meta", "rounds"),
        description="which models are measured; sft also trains the supervised baseline",
    )


def _listed(value: Any) -> Any:
    """A list of filters. One filter without a list is allowed."""
    return value if isinstance(value, list | tuple) else [value]


BuiltInFilter = Annotated[
    ByVerdict | ByVotes | ByAgreement | KeepAll | MaxPerPrompt | Length | Distinct, Field(discriminator="kind")
]
FilterConfig = Annotated[
    Annotated[BuiltInFilter, Tag(BUILT_IN)] | Annotated[OwnPart, Tag(OWN)], Discriminator(own_or_built_in), kind_or()
]
Filters = Annotated[tuple[FilterConfig, ...], BeforeValidator(_listed), Field(min_length=1)]


class AuditConfig(Strict):
    """Problems with known answers that go through every round and are never trained on."""

    task: TaskConfig
    count: Positive = 100


class MonitorsConfig(Strict):
    """Bounds on figures of a round's rows that need no labels. null removes a bound.

    A figure beyond its bound is an alarm.
    """

    on_alarm: Literal["warn", "stop"] = Field("warn", description="stop: end the run before training on the rows")
    min_distinct_1: Share | None = Field(None, description="distinct words / all words, in up to 1000 responses")
    min_distinct_2: Share | None = Field(0.02, description="distinct pairs of words / all pairs")
    max_self_bleu: Share | None = Field(0.98, description="BLEU-4 of the responses against each other")
    min_entropy: Share | None = Field(0.05, description="entropy of the answers / greatest possible entropy")
    max_truncated: Share | None = Field(0.3, description="share of responses cut at max_new_tokens")
    min_stopped: Share | None = Field(None, description="share of responses that end with the stop token")
    min_yes: Share | None = Field(0.01, description="share of qualified among the readable verdicts on r and r^")
    max_yes: Share | None = Field(0.99, description="the same share; above it the critic always says yes")
    max_critique_yes: Share | None = Field(0.99, description="the same share on r only; above it nothing is refined")
    max_judge_yes: Share | None = Field(None, description="the same share on r^ only; above it everything is kept")
    max_unparsed: Share | None = Field(0.3, description="share of feedbacks whose verdict cannot be read")
    max_agreement: Share | None = Field(None, description="share of r^ with the same answer as r")

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        values = self.model_dump()
        return {name: value for name, value in values.items() if name != "on_alarm" and value is not None}


class SamplingConfig(Strict):
    """The names are those of transformers' GenerationConfig. Temperature 0 is greedy."""

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
    """The names are those of peft.LoraConfig."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.0
    target_modules: str | list[str] = Field(
        "all-linear", description="a list of ends of names of linear layers, or a regular expression for whole names"
    )

    @field_validator("target_modules")
    @classmethod
    def _can_be_trained(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or "" in names:
            raise ValueError("a name is missing; give names of modules, such as q_proj, or all-linear")
        if "lm_head" in names:
            raise ValueError("lm_head is the output layer, whose adapter would not be trained; remove it")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression ({error}); correct it, or give a list") from None
        return value


class TrainerConfig(Strict):
    """Settings of every training of the run. The names are those of trl.SFTConfig."""

    learning_rate: float = Field(2e-5, gt=0)
    num_train_epochs: float = Field(3, gt=0)
    round_epochs: float | None = Field(None, gt=0, description="num_train_epochs of the rounds; default: the same")
    round_learning_rate: float | None = Field(None, gt=0, description="learning_rate of the rounds; default: the same")
    per_device_train_batch_size: Positive = 8
    gradient_accumulation_steps: Positive = 1
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: Share = 0.1
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: Positive = Field(2048, description="in tokens; a longer sequence is left out and counted, never cut")
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="precision of matrix products")
    device: str = Field("auto", description="auto, cpu or cuda")
    processes: Positive = Field(
        1,
        description="processes that train together on this machine, one device each; the global batch is "
        "per_device_train_batch_size x gradient_accumulation_steps x processes",
    )
    lora: LoraSettings | None = Field(
        None, description="train low-rank adapters, merged before saving; default: train all weights"
    )
    save_minutes: float = Field(
        10, gt=0, description="minutes between the checkpoints from which a killed training resumes"
    )


class SFTObjective(Strict):
    """The method: a round learns log P(r^ | p) from the kept rows."""

    kind: Literal["sft"] = "sft"


class DPOObjective(Strict):
    """A baseline without L_meta: prefers r^ to r. Needs policy continual-latest."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="how close the model stays to the previous one")


class GRPOObjective(Strict):
    """A baseline without L_meta: rewards the model's own verdict. Needs policy continual-latest."""

    kind: Literal["grpo"] = "grpo"
    num_generations: int = Field(8, ge=2, description="responses to each prompt")
    beta: float = Field(0.0, ge=0, description="weight of the distance (KL) to the previous model")


ObjectiveConfig = Annotated[
    Annotated[Annotated[SFTObjective | DPOObjective | GRPOObjective, Field(discriminator="kind")], Tag(BUILT_IN)]
    | Annotated[OwnPart, Tag(OWN)],
    Discriminator(own_or_built_in),
    kind_or("sft"),
]


class TransformersSettings(Strict):
    """Generates with transformers, on a CPU or a GPU."""

    kind: Literal["transformers"] = "transformers"
    batch_size: Positive = Field(128, description="rows in parallel; a kill loses at most this many")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = Field("auto", description="auto, cpu or cuda")
    kv_cache_gib: float = Field(
        2.0,
        ge=0,
        description="memory for key-value states kept from stage to stage; 0 turns this off, and then a killed "
        "half-precision run ends with the same bytes",
    )


class VLLMSettings(Strict):
    """Generates with vLLM, which needs its own environment: requirements-vllm.txt."""

    kind: Literal["vllm"] = "vllm"
    batch_size: Positive = Field(
        128, description="rows in parallel; a kill loses at most this many; vLLM is faster with more"
    )
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
    """The settings of `selfevo eval`, which measures one model."""

    task: TaskConfig
    count: Positive = Field(300, description="number of problems")
    seed: int = Field(0, ge=0, lt=2**32)
    consistency: Positive = Field(1, description="above 1: this many samples vote as well, before and after refinement")
    max_new_tokens: Positive | None = Field(
        None, description="token limit of each text; default: that of the run that made the model"
    )
    engine: EngineConfig = Field(TransformersSettings(), description="what generates text")
    endpoint: EndpointConfig | None = Field(None, description="the server with the model, instead of engine")


class AblationConfig(Strict):
    """Settings that only ablations change. Leave them out of a normal run."""

    label_share: float = Field(1.0, gt=0, le=1, description="share of D_meta's prompts that is used, for fewer labels")
    flipped_verdicts: Share = Field(0.0, description="share of D_meta's verdicts that is inverted, for worse labels")
    verdict_only: bool = Field(False, description="teach only the verdict of each feedback of D_meta, no language")
    refine: bool = Field(True, description="false: r is judged, and trained on if it passes")
    gold_filter: bool = Field(
        False,
        description="keep the right rows, instead of the filters that judge: the upper bound of every filter. Needs "
        "prompts from tasks, and is no self-evolution",
    )
    sft_labels: Positive | None = Field(
        None,
        description="labels of the supervised baseline; with more than corpus.labels, it shows how many SELF saves",
    )
