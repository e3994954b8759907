"""The sources of prompts, D_meta and a gate's problems. The given key selects the source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from selfevo.config.base import Positive, Share, Strict, check_source, exactly_one, source_of
from selfevo.config.sections import AnnotatorConfig
from selfevo.config.task import CheckedTaskConfig, TaskConfig
from selfevo.data.loading import MAX_BAD_SHARE
from selfevo.data.tables import Source

Split = Annotated[
    str | None, Field(description="part of a hub data set (default: train) or of a folder saved by datasets")
]
Subset = Annotated[str | None, Field(description="configuration of a hub data set")]
Revision = Annotated[str | None, Field(description="branch, tag or commit of a hub data set")]


class FilePrompts(Strict):
    """Prompts from a file or data set: texts or conversations, docs/guides/data.md."""

    path: str = Field(description="JSONL, JSON, parquet or CSV, a folder, or a hub data set")
    split: Split = None
    subset: Subset = None
    revision: Revision = None
    column: str = Field("prompt", description="the column of the prompts; other layouts are found without it")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="the run stops if a larger share of rows is unusable")
    count: Positive | None = Field(None, description="number of prompts; default: all")


class TaskPrompts(Strict):
    """The questions of a task, without their answers."""

    task: CheckedTaskConfig
    count: Positive | None = Field(
        None, description="number of prompts; default: 300 per round, or all of a smaller file"
    )


def as_path(value: Any) -> Any:
    """A text is short for {path: text}."""
    return {"path": value} if isinstance(value, str) else value


PromptsConfig = Annotated[
    Annotated[FilePrompts, Tag("<path>")] | Annotated[TaskPrompts, Tag("<task>")],
    Discriminator(source_of("path", "task")),
    exactly_one("path", "task"),
]


class SelfInstructConfig(Strict):
    """Prompts of a round that the current model writes, after the pattern of those it has seen."""

    count: Positive = Field(description="most prompts of the round")
    tries: Positive | None = Field(None, description="number of proposals; default: twice count")
    examples: Positive = Field(4, description="prompts shown in each request")
    temperature: float = Field(1.0, gt=0)
    min_words: Positive = Field(3, description="fewest words of a prompt; characters in scripts without spaces")
    max_words: Positive = Field(150, description="most words of a prompt; characters in scripts without spaces")
    max_similarity: float = Field(
        0.8,
        gt=0,
        lt=1,
        description="a prompt is a near duplicate above this Jaccard similarity of runs of 5 letters, or of 2 "
        "characters in scripts without spaces",
    )


class RoundConfig(Strict):
    """The source of one round's prompts. Give exactly one of the keys."""

    prompts: Annotated[PromptsConfig | None, BeforeValidator(as_path)] = Field(
        None, description="as `prompts` of the run; a text is short for its path"
    )
    self_instruct: SelfInstructConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        return check_source(value, ("prompts", "self_instruct"))


# Tagged, so that a message about a mistake names one source only.
Rounds = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[tuple[RoundConfig, ...], Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list | tuple) else "<number>"),
]


class ColumnsConfig(Strict):
    """The names of the four parts of a trajectory in your file."""

    prompt: str = "prompt"
    response: str = "response"
    feedback: str = "feedback"
    refinement: str = "refinement"


class _Corpus(Strict):
    max_doubtful_share: Share = Field(
        0.1,
        description="the run stops if a larger share of D_meta, of 20 rows or more, is doubtful: a qualified response "
        "that the refinement changes, a repeated row, two verdicts on one response, ...",
    )
    max_one_verdict: Share = Field(
        0.95, description="the run stops if a larger share of D_meta, of 20 rows or more, has the same verdict"
    )


class FileCorpus(_Corpus):
    """D_meta as recorded trajectories in a file."""

    path: str = Field(description="source of rows with prompt, response, feedback, refinement")
    split: Split = None
    subset: Subset = None
    revision: Revision = None
    columns: ColumnsConfig = Field(ColumnsConfig(), description="your names of the four columns")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="the run stops if a larger share of rows is unusable")


class TaskCorpus(_Corpus):
    """D_meta from a task: the model answers its problems, and an annotator criticises and refines.

    The annotator knows the gold answers. Without `annotator` a program annotates.
    """

    task: CheckedTaskConfig
    annotator: AnnotatorConfig | None = Field(None, description="a model that annotates and is given the gold answers")
    labels: Positive = Field(240, description="number of annotated prompts")
    samples_per_prompt: Positive = Field(
        8, description="responses sampled per prompt; one right and one wrong response is criticised"
    )
    warmup_share: Share = Field(
        0.5, description="share of the labels that train the warm-up, a throw-away model that writes the responses"
    )
    warmup_epochs: float = Field(8, gt=0, description="epochs of the warm-up; warmup_share 0 leaves it out")
    temperature: float = Field(0.8, ge=0, description="sampling temperature of the criticised responses")


class PromptsCorpus(_Corpus):
    """D_meta from prompts without answers: the model answers, an annotator criticises and refines."""

    prompts: str = Field(description="file, folder or hub data set")
    split: Split = None
    subset: Subset = None
    revision: Revision = None
    annotator: AnnotatorConfig = Field(description="a model that annotates")
    column: str = Field("prompt", description="the column of the prompts")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="the run stops if a larger share of rows is unusable")
    labels: Positive = Field(240, description="number of annotated prompts; default: 240, or all of a smaller file")
    temperature: float = Field(0.8, ge=0, description="sampling temperature of the criticised responses")


CorpusConfig = Annotated[
    Annotated[FileCorpus, Tag("<path>")]
    | Annotated[PromptsCorpus, Tag("<prompts>")]
    | Annotated[TaskCorpus, Tag("<task>")],
    Discriminator(source_of("path", "prompts", "task")),
    exactly_one("path", "prompts", "task"),
]


class _Gate(Strict):
    alpha: float = Field(0.05, gt=0, lt=1, description="significance level of the paired test")
    patience: Positive = Field(
        1, description="the run stops after this many rounds in a row without a significant gain"
    )


class TaskGate(_Gate):
    """A dev set. A round is promoted only if it answers significantly better than the best model."""

    task: TaskConfig
    count: Positive | None = Field(
        None, description="number of problems, the same for every model; default: 200, or all of a smaller file"
    )
    mode: Literal["direct", "refined"] = Field("direct", description="which answers are compared")


class PromptsGate(_Gate):
    """A gate on prompts without answers: do samples agree, and does the model call its answer qualified?

    It is a weak substitute for a dev set, because a model can become sure of wrong answers.
    """

    prompts: str = Field(description="file, folder or hub data set")
    split: Split = None
    subset: Subset = None
    revision: Revision = None
    column: str = Field("prompt", description="the column of the prompts")
    max_bad_share: Share = Field(MAX_BAD_SHARE, description="the run stops if a larger share of rows is unusable")
    count: Positive = Field(200, description="number of prompts, the same for every model")
    samples: Positive = Field(5, description="number of responses whose agreement is measured")
    temperature: float = Field(0.7, gt=0, description="sampling temperature")


def source_in(section: FilePrompts | FileCorpus | PromptsCorpus | PromptsGate) -> Source:
    """Where the rows of a section come from."""
    path = section.path if isinstance(section, FilePrompts | FileCorpus) else section.prompts
    return Source(path, section.split, section.subset, section.revision)


GateConfig = Annotated[
    Annotated[TaskGate, Tag("<task>")] | Annotated[PromptsGate, Tag("<prompts>")],
    Discriminator(source_of("task", "prompts")),
    exactly_one("task", "prompts"),
]
