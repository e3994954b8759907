"""The types of results.json: what a run has measured.

Nothing is stored twice. Of each model the file keeps which problems it answers right, one bit a problem; accuracies,
intervals and paired tests are properties, computed from the bits when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints, ValidationError, model_validator

from selfevo.errors import RunError
from selfevo.method.names import META, SFT, round_number
from selfevo.method.prompts import Verdict
from selfevo.rundir.atomic_files import write_atomic
from selfevo.rundir.layout import Layout
from selfevo.statistics import Rate, compare, wilson

Mode = Literal["direct", "refined", "consistency", "both"]
MODES: tuple[Mode, ...] = get_args(Mode)
Split = Literal["kind", "difficulty"]
Bits = Annotated[str, StringConstraints(pattern="^[01]*$")]


def to_bits(values: Sequence[bool]) -> Bits:
    """A 1 for each true value, in order."""
    return "".join("01"[value] for value in values)


def from_bits(bits: Bits) -> list[bool]:
    return [bit == "1" for bit in bits]


class Stored(BaseModel):
    """Base of what is stored: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Transitions:
    """What refinement does: how many answers were right or wrong before it, and are after."""

    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_wrong: int

    @classmethod
    def of(cls, n: int, before: int, after: int, both: int) -> Transitions:
        """Of `n` answers so many are right before, after, and both times."""
        return cls(both, before - both, after - both, n - before - after + both)


class Verdicts(Stored):
    """What a model says of its own direct answers. The others it calls not qualified."""

    qualified: NonNegativeInt = Field(description="answers that it calls qualified")
    qualified_right: NonNegativeInt = Field(description="those of them that are right")
    unparsed: NonNegativeInt = Field(description="answers on which its verdict cannot be read")

    @property
    def precision(self) -> float | None:
        """Share of the answers called qualified that are right; None where none is."""
        return self.qualified_right / self.qualified if self.qualified else None

    @property
    def precision_ci(self) -> tuple[float, float]:
        """95 % Wilson interval."""
        return wilson(self.qualified_right, self.qualified)


class Extractors(Stored):
    """What two ways to read a number from the direct answers find, in problems."""

    agree: NonNegativeInt = Field(description="the declared answer is the last number")
    declared: NonNegativeInt = Field(description="an answer is declared, as in `The answer is 5`")
    strict: NonNegativeInt = Field(description="the declared answer is right")
    flexible: NonNegativeInt = Field(description="the last number is right")


class ModelResults(Stored):
    """One model on the held-out problems."""

    name: str = Field(description="base, sft, meta, round-1, ...; of `selfevo eval` the folder's name")
    answers: dict[Mode, Bits] = Field(
        description="for each way to answer one character a problem, in the order of the problems: 1 is right. direct: "
        "the first answer; refined: after self-refinement; consistency and both: the votes of several samples "
        "without and with refinement, where asked for"
    )
    verdicts: Verdicts = Field(description="on its own direct answers")
    extractors: Extractors | None = Field(None, description="of `selfevo eval`, where answers are numbers")
    seconds: float = Field(description="of its training and its evaluation")

    @model_validator(mode="after")
    def _has_both_answers(self) -> ModelResults:
        if missing := {"direct", "refined"} - self.answers.keys():
            raise ValueError(f"{self.name} has no answers {' and '.join(sorted(missing))}")
        return self

    def rate(self, mode: Mode) -> Rate | None:
        """Of the answers of a mode; None where the model was not asked so."""
        bits = self.answers.get(mode)
        return None if bits is None else Rate(len(bits), bits.count("1"))

    @property
    def direct(self) -> Rate:
        """Of the first answers."""
        return Rate(len(self.answers["direct"]), self.answers["direct"].count("1"))

    @property
    def refined(self) -> Rate:
        """Of the answers after self-refinement."""
        return Rate(len(self.answers["refined"]), self.answers["refined"].count("1"))

    @property
    def transitions(self) -> Transitions:
        """From direct to refined answers."""
        pairs = list(zip(from_bits(self.answers["direct"]), from_bits(self.answers["refined"]), strict=True))
        return Transitions.of(len(pairs), self.direct.correct, self.refined.correct, pairs.count((True, True)))

    @property
    def recall(self) -> float | None:
        """Share of the right direct answers that the model calls qualified; None where none is right."""
        right = self.direct.correct
        return self.verdicts.qualified_right / right if right else None


class RowCounts(Stored):
    """What became of rows: each is kept, rejected or quarantined."""

    kept: NonNegativeInt = Field(description="by the filter, to be learnt from")
    rejected: NonNegativeInt = Field(description="by the filter")
    quarantined: NonNegativeInt = Field(description="its response, feedback, refinement or verdict did not come")

    @property
    def entered(self) -> int:
        """All of them."""
        return self.kept + self.rejected + self.quarantined


class AuditCounts(Stored):
    """How good a filter was on rows whose answers are known, in rows."""

    judged: NonNegativeInt = Field(description="rows that came to the filter")
    response_right: NonNegativeInt = Field(description="whose first response is right")
    right: NonNegativeInt = Field(description="whose refinement is right")
    kept: NonNegativeInt = Field(description="by the filter")
    kept_right: NonNegativeInt = Field(description="those of them whose refinement is right")

    @property
    def response_share(self) -> float | None:
        """Share of the judged rows whose first response is right; None where none was judged."""
        return self.response_right / self.judged if self.judged else None

    @property
    def right_share(self) -> float | None:
        """Share of the judged rows whose refinement is right; None where none was judged."""
        return self.right / self.judged if self.judged else None

    @property
    def precision(self) -> float | None:
        """Share of the kept rows that are right; None where none is kept."""
        return self.kept_right / self.kept if self.kept else None

    @property
    def recall(self) -> float | None:
        """Share of the right rows that are kept; None where none is right."""
        return self.kept_right / self.right if self.right else None


class Audit(AuditCounts):
    """The audit of one round."""

    both_right: NonNegativeInt = Field(description="whose response and refinement are both right")
    verdicts: dict[Verdict, tuple[int, int]] = Field(
        description="by the verdict on the refinement: rows, and those of them whose refinement is right"
    )

    @property
    def transitions(self) -> Transitions:
        """From responses to refinements."""
        return Transitions.of(self.judged, self.response_right, self.right, self.both_right)

    @property
    def unparsed(self) -> tuple[int, int]:
        """Rows whose verdict could not be read, and the right ones of them."""
        return self.verdicts[Verdict.UNKNOWN]


class RoundResults(Stored):
    """One round of self-evolution."""

    name: str = Field(description="round-1, ...")
    rows: RowCounts = Field(description="what became of its rows")
    monitors: dict[str, float | None] = Field(description="figures of its rows that need no answers, by name")
    alarms: tuple[str, ...] = Field(description="a sentence for each figure beyond its bound")
    audit: Audit | None = Field(description="where answers are known that the method does not see")


class ModelComparison(Stored):
    """Model `a` against model `b` on the same problems."""

    a: str = Field(description="name of a model")
    b: str = Field(description="name of another")
    mode: str = Field(description="which answers: direct, refined, ...; agreement: scores of a gate without answers")
    difference: float = Field(description="of their accuracies or mean scores, a - b")
    ci: tuple[float, float] = Field(description="its 95 % interval")
    gained: int = Field(description="problems on which a does better")
    lost: int = Field(description="problems on which b does better")
    p_value: float = Field(description="two-sided: McNemar's exact test, of scores between 0 and 1 a sign-flip test")

    @classmethod
    def of(cls, a: str, a_scores: Sequence[float], b: str, b_scores: Sequence[float], mode: str) -> ModelComparison:
        """Compares scores in [0, 1] of the same problems."""
        return cls(a=a, b=b, mode=mode, **asdict(compare(a_scores, b_scores)))


class GateRound(ModelComparison):
    """A round against the best model before it, on the problems of the gate."""

    promoted: bool = Field(description="it is significantly better, and the best from now on")


class GateResults(Stored):
    """What the gate decided. Its comparisons are stored whole: the scores behind them are not kept."""

    alpha: float = Field(description="a gain is significant with a p below it")
    patience: int = Field(description="so many rounds in a row without a significant gain end the run")
    best: str = Field(description="name of the best model; empty while none was compared")
    rounds: tuple[GateRound, ...] = Field(description="each against the best model before it")


class Results(Stored):
    """What results.json holds."""

    version: Literal[1] = Field(1, description="of this format")
    task: str | None = Field(description="whose problems the models were measured on; null without an evaluation")
    seed: int = Field(description="of the run: which problems, samples, and order of training")
    policy: str | None = Field(description="what each round trains from; null of `selfevo eval`")
    models: tuple[ModelResults, ...] = Field((), description="in the order in which they were made")
    groups: dict[Split, dict[str, Bits]] = Field(
        {}, description="by kind and by difficulty: for each group one character a problem, 1 where it belongs to it"
    )
    rounds: tuple[RoundResults, ...] = Field((), description="those that have come as far as the filter")
    bounds: dict[str, float] = Field({}, description="of the monitors, such as min_entropy")
    gate: GateResults | None = Field(None, description="what it decided, in a run that has one")
    stopped: str | None = Field(None, description="why the rounds ended before their number")
    seconds: float = Field(description="of work so far")

    @model_validator(mode="after")
    def _same_problems(self) -> Results:
        bits = [bits for model in self.models for bits in model.answers.values()]
        bits += [mask for masks in self.groups.values() for mask in masks.values()]
        if len({len(each) for each in bits}) > 1:
            raise ValueError("answers and groups must have one character for each problem, all as many")
        return self

    def model(self, name: str) -> ModelResults | None:
        return next((model for model in self.models if model.name == name), None)

    def round(self, name: str) -> RoundResults | None:
        return next((each for each in self.rounds if each.name == name), None)

    @property
    def best(self) -> ModelResults | None:
        """The model that the run is about: the gate's best where it was measured, else the last that was."""
        return (self.model(self.gate.best) if self.gate else None) or (self.models[-1] if self.models else None)

    @property
    def comparisons(self) -> list[ModelComparison]:
        """Of a run with measured rounds: its best model against SFT and the model with meta-skills, and where that one
        is the best, the last round against it."""
        best, rounds = self.best, [model for model in self.models if round_number(model.name)]
        if best is None or not rounds:
            return []
        pairs = [(best, other) for name in (SFT, META) if name != best.name and (other := self.model(name))]
        if best not in rounds:
            pairs.append((rounds[-1], best))
        modes: tuple[Mode, ...] = ("direct", "refined")
        return [
            ModelComparison.of(a.name, from_bits(a.answers[mode]), b.name, from_bits(b.answers[mode]), mode)
            for a, b in pairs
            for mode in modes
        ]

    def rates(self, by: Split, model: ModelResults, mode: Mode) -> dict[str, Rate]:
        """A model's rate within each group of problems."""
        answers = model.answers[mode]
        chosen = {
            name: [bit for bit, belongs in zip(answers, mask, strict=True) if belongs == "1"]
            for name, mask in self.groups.get(by, {}).items()
        }
        return {name: Rate(len(bits), bits.count("1")) for name, bits in chosen.items()}

    def table(self) -> str:
        """The models as lines of text: accuracies and the precision of the verdicts, in percent with 95 % intervals."""
        lines: list[tuple[str, ...]] = [("model", "direct", "refined", "verdict precision")]
        for model in self.models:
            verdicts = Rate(model.verdicts.qualified, model.verdicts.qualified_right)
            lines.append((model.name, *(_percent(rate) for rate in (model.direct, model.refined, verdicts))))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _percent(rate: Rate) -> str:
    if rate.accuracy is None:
        return "-"
    return f"{100 * rate.accuracy:.1f} ({100 * rate.ci[0]:.1f} to {100 * rate.ci[1]:.1f})"


def load_results(path: str | Path) -> Results:
    """The results of a run directory, or those in a file.

    Raises RunError where there are none, or they are damaged or of another version.
    """
    place = Path(path)
    return load_stored(Results, Layout(place).results if place.is_dir() else place)


def read_results(root: Path) -> Results | None:
    """The results in a run directory; None before they are written."""
    return load_results(root) if Layout(root).results.is_file() else None


def write_results(root: Path, results: Results) -> None:
    write_atomic(Layout(root).results, results.model_dump_json(indent=2))


T = TypeVar("T", bound=Stored)


def load_stored(kind: type[T], path: Path) -> T:
    """What a JSON file holds, as a type whose field `version` says of which version it is."""
    remedy = "delete it and run the command that wrote it again"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); give a run directory or its file") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds {type(content).__name__}, not an object; {remedy}")
    found, expected = content.get("version"), kind.model_fields["version"].default
    if found != expected:
        says = "names no version" if found is None else f"is of version {found!r}"
        raise RunError(f"{path} {says}, and this selfevo reads version {expected}; {remedy}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise RunError(f"{path} is damaged ({place}: {first['msg']}); {remedy}") from None
