"""Where prompts, D_meta and the problems of a gate come from: each a union, told apart by the key of its source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from selfevo.config.base import Positive, Share, Strict, check_source, exactly_one, source_of
from selfevo.config.sections import AnnotatorConfig, TaskConfig
from selfevo.data.loading import MAX_BAD_SHARE


class FilePrompts(Strict):
    """Unlabelled prompts from a file."""

    path: str = Field(description="JSONL, parquet, a folder saved by datasets, or a hub data set")
    column: str = Field("prompt", description="the text column")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="share of unusable rows that stops the run")
    count: Positive | None = Field(None, description="how many; by default all")


class TaskPrompts(Strict):
    """The questions of a task, their answers withheld."""

    task: TaskConfig
    count: Positive | None = Field(None, description="how many; by default 300 a round")


PromptsConfig = Annotated[
    Annotated[FilePrompts, Tag("<path>")] | Annotated[TaskPrompts, Tag("<task>")],
    Discriminator(source_of("path", "task")),
    exactly_one("path", "task"),
]


class SelfInstructConfig(Strict):
    """Prompts of a round that the current model writes itself, from those it has seen."""

    count: Positive = Field(description="how many, at most")
    tries: Positive | None = Field(None, description="proposals; by default twice count")
    examples: Positive = Field(4, description="prompts shown in a request")
    temperature: float = Field(1.0, gt=0)
    min_words: Positive = Field(3, description="characters in scripts without spaces")
    max_words: Positive = Field(150, description="characters in scripts without spaces")
    max_similarity: float = Field(
        0.8, gt=0, lt=1, description="Jaccard, of 5 letters in a row, or 2 of Chinese; above it: near duplicate"
    )


class RoundConfig(Strict):
    """Where the prompts of one round come from: give one of the two."""

    prompts: PromptsConfig | None = Field(None, description="as prompts of the run; a text is its path")
    self_instruct: SelfInstructConfig | None = None

    @field_validator("prompts", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        return check_source(value, ("prompts", "self_instruct"))


# Tagged, so that a mistake is told of the one or the other, not of both.
Rounds = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[tuple[RoundConfig, ...], Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list | tuple) else "<number>"),
]


class ColumnsConfig(Strict):
    """What your file calls the four parts of a trajectory."""

    prompt: str = "prompt"
    response: str = "response"
    feedback: str = "feedback"
    refinement: str = "refinement"


class FileCorpus(Strict):
    """D_meta as recorded trajectories in a file."""

    path: str = Field(description="rows with prompt, response, feedback, refinement")
    columns: ColumnsConfig = Field(ColumnsConfig(), description="your names for the four columns")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="share of unusable rows that stops the run")


class TaskCorpus(Strict):
    """D_meta made here: the model answers problems of a task, and an annotator that knows their answers criticises and
    refines.

    Without `annotator` a program does so, from the answers of the task.
    """

    task: TaskConfig
    annotator: AnnotatorConfig | None = Field(None, description="a model that annotates, told the answers")
    labels: Positive = Field(240, description="annotated prompts")
    samples_per_prompt: Positive = Field(
        8, description="responses sampled per prompt; one right and one wrong of them are criticised"
    )
    warmup_share: Share = Field(
        0.5, description="share of the labels on which a throw-away model first learns to answer at all"
    )
    warmup_epochs: float = Field(8, gt=0, description="epochs of that warm-up; warmup_share 0 leaves it out")
    temperature: float = Field(0.8, ge=0, description="at which the responses that are criticised are sampled")


class PromptsCorpus(Strict):
    """D_meta made here from prompts without answers: the model answers, an annotator criticises and refines."""

    prompts: str = Field(description="file, folder saved by datasets, or hub data set")
    annotator: AnnotatorConfig = Field(description="a model that annotates")
    column: str = Field("prompt", description="the text column")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="share of unusable rows that stops the run")
    labels: Positive = Field(240, description="annotated prompts")
    temperature: float = Field(0.8, ge=0, description="at which the responses that are criticised are sampled")


CorpusConfig = Annotated[
    Annotated[FileCorpus, Tag("<path>")]
    | Annotated[PromptsCorpus, Tag("<prompts>")]
    | Annotated[TaskCorpus, Tag("<task>")],
    Discriminator(source_of("path", "prompts", "task")),
    exactly_one("path", "prompts", "task"),
]


class _Gate(Strict):
    alpha: float = Field(0.05, gt=0, lt=1, description="significance level of the paired test")
    patience: Positive = Field(1, description="rounds in a row without a significant gain after which the run stops")


class TaskGate(_Gate):
    """A dev set kept apart: a round is promoted only if it has significantly more right answers there than the best
    model so far."""

    task: TaskConfig
    count: Positive = Field(200, description="problems, the same for every model")
    mode: Literal["direct", "refined"] = Field("direct", description="which answer has to be better")


class PromptsGate(_Gate):
    """The same on prompts without answers: by how much several samples agree and how often the model's own verdict is
    yes. It is a stand-in, for a model can become sure of what is wrong."""

    prompts: str = Field(description="file, folder saved by datasets, or hub data set")
    column: str = Field("prompt", description="the text column")
    count: Positive = Field(200, description="prompts, the same for every model")
    samples: Positive = Field(5, description="responses that should agree")
    temperature: float = Field(0.7, gt=0, description="at which they are sampled")


GateConfig = Annotated[
    Annotated[TaskGate, Tag("<task>")] | Annotated[PromptsGate, Tag("<prompts>")],
    Discriminator(source_of("task", "prompts")),
    exactly_one("task", "prompts"),
]
