"""The sections of a configuration. training.py has the trainer's, sources.py those for data, run_config.py the whole.

Hyper-parameters have the same names as in transformers, TRL and PEFT. These types also generate
docs/reference/configuration.md (`python docs/generate_configuration.py`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, HttpUrl, Tag, field_validator, model_validator

from selfevo.config.base import (
    BUILT_IN,
    OWN,
    OwnPart,
    Positive,
    Share,
    Strict,
    SystemPrompt,
    kind_or,
    own_or_built_in,
    unless_default,
)
from selfevo.config.task import CheckedTaskConfig, TaskConfig
from selfevo.method.filters import ByAgreement, ByVerdict, ByVotes, Distinct, KeepAll, Length, MaxPerPrompt
from selfevo.method.prompts import Wording
from selfevo.method.protocols import Sampling


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
    count: Positive | None = Field(
        None, description="number of problems, the same for every model; default: all of a file, 300 of any other task"
    )
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

    task: CheckedTaskConfig
    count: Positive | None = Field(None, description="number of problems; default: 100, or all of a smaller file")


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
    top_k: int = unless_default(0, ge=0, description="sample from this many of the likeliest tokens; 0: from all")
    min_p: float = unless_default(
        0.0, ge=0, le=1, description="leave out tokens less likely than this share of the likeliest one's probability"
    )
    repetition_penalty: float = unless_default(
        1.0, gt=0, description="above 1: tokens of the conversation so far become less likely, in greedy decoding too"
    )

    def to_sampling(self) -> Sampling:
        return Sampling(**dict(self))


class SkillsConfig(Strict):
    """How each skill samples during a round. Evaluation is always greedy, with the same limits."""

    respond: SamplingConfig = Field(SamplingConfig(temperature=0.7), description="r, the first response")
    critique: SamplingConfig = Field(SamplingConfig(max_new_tokens=512), description="f, the feedback on r")
    refine: SamplingConfig = Field(SamplingConfig(), description="r^, the refined response")
    judge: SamplingConfig = Field(SamplingConfig(max_new_tokens=512), description="v, the feedback on r^")


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


def _workers() -> Any:
    return unless_default(
        0, ge=0, description="engines on a Ray cluster that share the work (section cluster); 0: this process alone"
    )


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
    workers: int = _workers()


class VLLMSettings(Strict):
    """Generates with vLLM, which needs its own environment: requirements-vllm.txt."""

    kind: Literal["vllm"] = "vllm"
    batch_size: Positive = Field(
        128, description="rows in parallel; a kill loses at most this many; vLLM is faster with more"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_gib: float = Field(2.0, ge=0, description="memory for keys and values on a CPU")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the device's memory")
    tensor_parallel_size: int = unless_default(1, gt=0, description="GPUs that share the weights of one model")
    workers: int = _workers()


class OwnEngine(OwnPart):
    """Your own engine: docs/extending.md."""

    workers: int = _workers()


EngineConfig = Annotated[
    Annotated[Annotated[TransformersSettings | VLLMSettings, Field(discriminator="kind")], Tag(BUILT_IN)]
    | Annotated[OwnEngine, Tag(OWN)],
    Discriminator(own_or_built_in),
    kind_or("transformers"),
]


class MeasureConfig(Strict):
    """The settings of `selfevo eval`, which measures one model."""

    task: TaskConfig
    count: Positive | None = Field(
        None, description="number of problems; default: all of a file, 300 of any other task"
    )
    seed: int = Field(0, ge=0, lt=2**32)
    consistency: Positive = Field(1, description="above 1: this many samples vote as well, before and after refinement")
    max_new_tokens: Positive | None = Field(
        None, description="token limit of each text; default: that of the run that made the model"
    )
    system: SystemPrompt | None = Field(
        None, description="system prompt of problems that have none; default: that of the run that made the model"
    )
    wording: Wording | None = Field(
        None, description="the words that the model is asked with; default: those it was trained with"
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
