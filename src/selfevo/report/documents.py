"""What commands print with --json: one document each, with types and a JSON schema in docs/reference/json.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field

from selfevo.evaluation.lm_eval_harness import HarnessScores
from selfevo.rundir.fields import Count
from selfevo.rundir.inspect import Entry, Summary
from selfevo.rundir.results import Mode, ModelComparison, ModelResults, Results
from selfevo.rundir.scores import Stored

Document = TypeVar("Document", bound=Stored)

# What a terminal obeys, or what cannot be written in UTF-8, and JSON does not escape by itself.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Accuracy(Stored):
    """How many answers are right."""

    n: Count = Field(description="problems")
    correct: float = Field(description="right answers; where a judge compares, a tie is half of one")
    accuracy: float | None = Field(description="correct / n; null without problems")
    ci: tuple[float, float] = Field(description="95 % Wilson interval of the accuracy")


class ResultsDocument(Stored):
    """Of `report` and `eval`: results.json, and the figures that are computed from its bits."""

    results: Results = Field(description="the content of results.json: see [Results schema](results.md)")
    accuracies: dict[str, dict[Mode, Accuracy]] = Field(description="by model and way to answer")
    comparisons: tuple[ModelComparison, ...] = Field(description="the paired tests that the table shows")

    @classmethod
    def of(cls, results: Results) -> ResultsDocument:
        return cls(
            results=results,
            accuracies={model.name: _accuracies(model) for model in results.models},
            comparisons=tuple(results.comparisons),
        )


class HarnessTask(Stored):
    """One task of lm-evaluation-harness."""

    documents: Count = Field(description="problems")
    scores: dict[str, float] = Field(description='by "metric,filter"')
    ours: float | None = Field(description="share of the same outputs that is right by our rule; null: no numbers")


class HarnessDocument(Stored):
    """Of `eval --harness`."""

    tasks: dict[str, HarnessTask] = Field(description="by name")

    @classmethod
    def of(cls, figures: Mapping[str, HarnessScores]) -> HarnessDocument:
        return cls(tasks={name: _filled(HarnessTask, found) for name, found in figures.items()})


class RunSummary(Stored):
    """A run in one line."""

    root: Annotated[str, BeforeValidator(str)] = Field(description="path of the run directory")
    status: Literal["running", "finished", "stopped"] = Field(description="stopped: the same command goes on")
    model: str = Field(description="the base model")
    seed: int = Field(description="seed of the run")
    last: str | None = Field(description="name of the newest model; null if there is none")
    accuracy: float | None = Field(description="share of its first answers that are right; null if not measured")
    seconds: float = Field(description="time of all work so far")
    size: Count = Field(description="bytes of the run directory")

    @classmethod
    def of(cls, found: Summary) -> RunSummary:
        return _filled(cls, found)


class RunsDocument(Stored):
    """Of `runs`. A damaged run is not listed; a line on standard error says what is wrong with it."""

    runs: tuple[RunSummary, ...] = Field(description="by name")


class StageSummary(Stored):
    """One stage or one training: `rows` = `out` + the sum of `lost`."""

    name: str = Field(description="round-1/critique, ..., or the name of a model for its training")
    status: Literal["done", "begun"] = Field(description="begun: its rows are not complete yet")
    rows: Count = Field(description="rows, or training sequences, that went in")
    out: Count = Field(description="rows that went on")
    lost: dict[str, Count] = Field(description="rejected and quarantined rows by reason")
    seconds: float = Field(description="wall-clock time")
    device_seconds: float = Field(description="time in which the device generated or trained")
    prompt_tokens: Count = Field(description="tokens that the model or the annotator read")
    new_tokens: Count = Field(description="tokens that it wrote")
    trained_tokens: Count = Field(description="tokens that were trained on")
    dollars: float = Field(description="US dollars that annotation cost")


class ShowDocument(Stored):
    """Of `show`."""

    run: RunSummary = Field(description="the run")
    stages: tuple[StageSummary, ...] = Field(description="in the order in which they started")

    @classmethod
    def of(cls, run: Summary, stages: Iterable[Entry]) -> ShowDocument:
        return cls(run=RunSummary.of(run), stages=tuple(_filled(StageSummary, each) for each in stages))


class VerifyDocument(Stored):
    """Of `verify`. With faults the exit code is 3."""

    checked: Count = Field(description="finished files and models")
    faults: tuple[str, ...] = Field(description="what is wrong, each with its remedy")


class CheckResult(Stored):
    """One check."""

    name: str = Field(description="what was checked")
    status: Literal["pass", "warn", "fail"] = Field(description="fail: a run would not start")
    finding: str = Field(description="what was found")
    remedy: str = Field(description="what to do; empty if nothing")
    seconds: float = Field(description="how long the check took")


class DoctorDocument(Stored):
    """Of `doctor`. If a check failed the exit code is 2."""

    checks: tuple[CheckResult, ...] = Field(description="in the order in which they were made")

    @classmethod
    def of(cls, checks: Iterable[object]) -> DoctorDocument:
        return cls(checks=tuple(_filled(CheckResult, each) for each in checks))


class PlannedTraining(Stored):
    """Memory of SFT on one device, in bytes. At the peak gradients take the place of activations."""

    devices: Count = Field(description="that train together")
    rows: Count = Field(description="sequences of the largest micro-batch")
    columns: Count = Field(description="tokens of the longest of these")
    weights: float = Field(description="with adapters, where they are trained")
    gradients: float = Field(description="of what is trained")
    optimizer: float = Field(description="its states")
    activations: float = Field(description="what the backward pass needs, and what comes and goes, with logits")
    total: float = Field(description="at the peak")


class PlannedGeneration(Stored):
    """Memory of generation on one device, in bytes."""

    devices: Count = Field(description="that generate")
    rows: Count = Field(description="conversations at a time; 0: the weights do not fit")
    total: float = Field(description="weights in half precision, and the keys and values of these rows")


class PlannedStage(Stored):
    """A training, the generation before it, and the measurement after it."""

    name: str = Field(description="name of the model")
    generated_tokens: float = Field(description="tokens that the model writes")
    trained_tokens: float = Field(description="tokens that are trained on, over all epochs")
    generate_hours: float = Field(description="hours of generation")
    train_hours: float = Field(description="hours of training")
    dollars: float | None = Field(description="for all devices of the machine; null without a price")


class PlanDocument(Stored):
    """Of `doctor --plan`. If the run does not fit the exit code is 2."""

    machine: str = Field(description="the machine that was described")
    usable: float = Field(description="bytes of a device that the plan uses")
    parameters: Count = Field(description="of the model; shared ones count once")
    trained: Count = Field(description="of these, or of its adapters, that are trained")
    training: PlannedTraining = Field(description="memory in training")
    generation: PlannedGeneration = Field(description="memory in generation")
    train_speed: float = Field(description="tokens a second that one device trains on")
    generate_speed: float = Field(description="tokens a second that one engine writes")
    speed_source: str = Field(description="where these two come from")
    notes: tuple[str, ...] = Field(description="what else the plan rests on, and devices that do nothing")
    stages: tuple[PlannedStage, ...] = Field(description="in the order of the run")
    fault: str = Field(description="why it does not fit, and the smallest change that does; empty if it fits")


def print_document(document: Stored) -> None:
    """Prints one JSON document, and nothing that a terminal would obey."""
    text = json.dumps(document.model_dump(mode="json"))
    plain = json.loads(text, parse_constant=lambda name: None)  # JSON has neither NaN nor Infinity
    print(escaped(json.dumps(plain, indent=2, ensure_ascii=False)))


def escaped(text: str) -> str:
    """JSON with what a terminal obeys, or UTF-8 cannot hold, as \\u escapes."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _filled(kind: type[Document], source: object) -> Document:
    """`kind` with the values that `source` has under the same names."""
    return kind.model_validate({name: getattr(source, name) for name in kind.model_fields})


def _accuracies(model: ModelResults) -> dict[Mode, Accuracy]:
    rates = {mode: rate for mode in model.answers if (rate := model.rate(mode))}
    return {
        mode: Accuracy(n=rate.n, correct=rate.correct, accuracy=rate.accuracy, ci=rate.ci)
        for mode, rate in rates.items()
    }
