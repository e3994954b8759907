"""The types of results.json: what a run has measured.

Nothing is stored twice. For each model the file stores one bit per problem: right or wrong.
Accuracies, intervals and paired tests are properties, computed from these bits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from selfevo.errors import RunError
from selfevo.method.names import BASE, META, SFT, round_number
from selfevo.method.verdicts import Verdict
from selfevo.rundir.atomic_files import write_atomic
from selfevo.rundir.fields import Count
from selfevo.rundir.layout import Layout
from selfevo.rundir.scores import (
    Bits,
    Comparisons,
    JudgeResults,
    Marks,
    Stored,
    Transitions,
    Wins,
    from_bits,
    rate_of,
)
from selfevo.statistics import Rate, compare, mcnemar_exact, wilson

Mode = Literal["direct", "refined", "consistency", "both"]
MODES: tuple[Mode, ...] = get_args(Mode)
Split = Literal["kind", "difficulty"]


class Alarm(Stored):
    """Something to look at before the results are used. A command that ends with alarms has exit code 7."""

    kind: Literal["monitor", "empty round", "annotation", "evaluation", "training"] = Field(
        description="monitor: a figure of a round's rows is beyond its bound; empty round: a round kept no row; "
        "annotation: most prompts gave no row of D_meta; evaluation: most answers of a model are incomplete; "
        "training: most sequences were left out as too long"
    )
    place: str = Field(description="what it is about: round-1, d_meta, or the name of a model")
    finding: str = Field(description="what was found, with its numbers")
    remedy: str = Field(description="what to do about it")

    def __str__(self) -> str:
        return f"{self.place}: {self.finding}; {self.remedy}"


class Verdicts(Stored):
    """A model's verdicts on its own direct answers. The remaining ones are "not qualified"."""

    qualified: Count = Field(description="answers with the verdict qualified")
    qualified_right: Count = Field(
        description="right answers among these; where a judge compares, those that do not lose"
    )
    unparsed: Count = Field(description="answers whose verdict cannot be read")

    @property
    def precision(self) -> float | None:
        """The share of right answers among those called qualified. None if there are none."""
        return self.qualified_right / self.qualified if self.qualified else None

    @property
    def precision_ci(self) -> tuple[float, float]:
        """95 % Wilson interval of the precision."""
        return wilson(self.qualified_right, self.qualified)


class Extractors(Stored):
    """Two ways to read a number from the direct answers, compared. Counts of problems."""

    agree: Count = Field(description="the declared answer and the last number agree")
    declared: Count = Field(description="an answer is declared, as in `The answer is 5`")
    strict: Count = Field(description="the declared answer is right")
    flexible: Count = Field(description="the last number is right")


class ModelResults(Stored):
    """One model on the held-out problems."""

    name: str = Field(description="base, sft, meta, round-1, ...; for `selfevo eval` the folder's name")
    answers: dict[Mode, Marks] = Field(
        description="for each way to answer: one character per problem, in the order of the problems; 1 is right. "
        "Where a judge compares: 1 is a win, 0 a loss, = a tie, ? a choice that could not be read. "
        "direct: the first answer; refined: the answer after self-refinement; consistency and both, if asked for: "
        "the vote of several samples, without and with refinement"
    )
    verdicts: Verdicts = Field(description="its verdicts on its own direct answers")
    incomplete: dict[str, Count] = Field(
        {},
        description="first answers that are incomplete and so count as wrong, by reason. length: cut at "
        "max_new_tokens; overlong: the prompt does not fit the context; empty: no text; failed: no reply of the server",
    )
    compared: dict[Mode, Comparisons] = Field({}, description="the same keys as answers, where a judge compares")
    extractors: Extractors | None = Field(None, description="only for `selfevo eval`, if answers are numbers")
    seconds: float = Field(description="time of its training and evaluation")

    @model_validator(mode="after")
    def _has_both_answers(self) -> ModelResults:
        if missing := {"direct", "refined"} - self.answers.keys():
            raise ValueError(f"{self.name} has no answers {' and '.join(sorted(missing))}")
        return self

    def rate(self, mode: Mode) -> Rate | None:
        """The rate of right answers in a mode. None if the model was not measured in it."""
        bits = self.answers.get(mode)
        return None if bits is None else rate_of(bits)

    @property
    def direct(self) -> Rate:
        """The rate of right first answers."""
        return rate_of(self.answers["direct"])

    @property
    def refined(self) -> Rate:
        """The rate of right answers after self-refinement."""
        return rate_of(self.answers["refined"])

    @property
    def transitions(self) -> Transitions:
        """From direct to refined answers."""
        return Transitions.between(self.answers["direct"], self.answers["refined"])

    def wins(self, mode: Mode) -> Wins:
        """The comparisons in a mode, where a judge compares."""
        bits = self.answers[mode]
        wins, losses = bits.count("1"), bits.count("0")
        return Wins(wins, bits.count("="), losses, bits.count("?"), mcnemar_exact(wins, losses))

    @property
    def recall(self) -> float | None:
        """The share of right direct answers that the model calls qualified. None if none is right."""
        right = self.answers["direct"].count("1") + self.answers["direct"].count("=")
        return self.verdicts.qualified_right / right if right else None


class RowCounts(Stored):
    """The fate of rows: each is kept, rejected or quarantined."""

    kept: Count = Field(description="rows that the filter kept for training")
    rejected: Count = Field(description="rows that the filter dropped")
    quarantined: Count = Field(description="rows without a usable response, feedback, refinement or verdict")

    @property
    def entered(self) -> int:
        """All rows."""
        return self.kept + self.rejected + self.quarantined


class AuditCounts(Stored):
    """How good a filter was on rows with known answers. Counts of rows."""

    judged: Count = Field(description="rows that reached the filter")
    response_right: Count = Field(description="rows whose first response is right")
    right: Count = Field(description="rows whose refinement is right")
    kept: Count = Field(description="rows that the filter kept")
    kept_right: Count = Field(description="kept rows whose refinement is right")

    @property
    def response_share(self) -> float | None:
        """The share of judged rows whose first response is right. None if none was judged."""
        return self.response_right / self.judged if self.judged else None

    @property
    def right_share(self) -> float | None:
        """The share of judged rows whose refinement is right. None if none was judged."""
        return self.right / self.judged if self.judged else None

    @property
    def precision(self) -> float | None:
        """The share of kept rows that are right. None if none is kept."""
        return self.kept_right / self.kept if self.kept else None

    @property
    def recall(self) -> float | None:
        """The share of right rows that are kept. None if none is right."""
        return self.kept_right / self.right if self.right else None


class Audit(AuditCounts):
    """The audit of one round."""

    both_right: Count = Field(description="rows whose response and refinement are both right")
    verdicts: dict[Verdict, tuple[Count, Count]] = Field(
        description="for each verdict on the refinement: its rows, and how many of their refinements are right"
    )

    @field_validator("verdicts")
    @classmethod
    def _each_verdict(cls, value: dict[Verdict, tuple[int, int]]) -> dict[Verdict, tuple[int, int]]:
        if missing := [verdict.value for verdict in Verdict if verdict not in value]:
            raise ValueError(f"there is no count of {' and '.join(missing)}")
        return value

    @property
    def transitions(self) -> Transitions:
        """From responses to refinements."""
        return Transitions.of(self.judged, self.response_right, self.right, self.both_right)

    @property
    def unparsed(self) -> tuple[int, int]:
        """The number of rows with an unreadable verdict, and how many of these are right."""
        return self.verdicts[Verdict.UNKNOWN]


class RoundResults(Stored):
    """One round of self-evolution."""

    name: str = Field(description="round-1, ...")
    rows: RowCounts = Field(description="the fate of its rows")
    monitors: dict[str, float | None] = Field(description="figures of its rows that need no known answers, by name")
    audit: Audit | None = Field(description="null without known answers; the method does not see them")


class ModelComparison(Stored):
    """Model `a` against model `b` on the same problems."""

    a: str = Field(description="name of a model")
    b: str = Field(description="name of the other model")
    mode: str = Field(
        description="which answers: direct, refined, ...; agreement: the scores of a gate without answers"
    )
    difference: float = Field(description="difference of accuracies or mean scores, a - b")
    ci: tuple[float, float] = Field(description="95 % interval of the difference")
    gained: int = Field(description="problems on which a does better")
    lost: int = Field(description="problems on which b does better")
    p_value: float = Field(description="two-sided p: McNemar's exact test; for scores between 0 and 1 a sign-flip test")

    @classmethod
    def of(cls, a: str, a_scores: Sequence[float], b: str, b_scores: Sequence[float], mode: str) -> ModelComparison:
        """Compares scores in [0, 1] on the same problems."""
        return cls(a=a, b=b, mode=mode, **asdict(compare(a_scores, b_scores)))


class GateRound(ModelComparison):
    """A round compared with the best model before it, on the problems of the gate."""

    promoted: bool = Field(description="whether it is significantly better; then it is the new best model")


class GateResults(Stored):
    """The gate's decisions. It stores whole comparisons, because the scores are not kept."""

    alpha: float = Field(description="a gain is significant if p is below it")
    patience: int = Field(description="the run ends after this many rounds in a row without a significant gain")
    best: str = Field(description="name of the best model; empty before the first comparison")
    rounds: tuple[GateRound, ...] = Field(description="each round compared with the best model before it")


class Results(Stored):
    """The content of results.json."""

    version: Literal[1] = Field(1, description="version of this format")
    task: str | None = Field(description="task of the evaluation; null without one")
    judge: JudgeResults | None = Field(None, description="who compared the answers; null where a program checks them")
    seed: int = Field(description="seed of the run: it draws problems, samples and the order of training")
    policy: str | None = Field(description="policy of the run; null for `selfevo eval`")
    models: tuple[ModelResults, ...] = Field((), description="in the order in which they were made")
    groups: dict[Split, dict[str, Bits]] = Field(
        {}, description="by kind and by difficulty: for each group one character per problem; 1: it is in the group"
    )
    rounds: tuple[RoundResults, ...] = Field((), description="rounds that have reached the filter")
    bounds: dict[str, float] = Field({}, description="bounds of the monitors, such as min_entropy")
    gate: GateResults | None = Field(None, description="decisions of the gate; null without one")
    alarms: tuple[Alarm, ...] = Field((), description="what to look at before the results are used")
    stopped: str | None = Field(None, description="why the rounds ended early; null if they did not")
    seconds: float = Field(description="time of all work so far")

    @model_validator(mode="after")
    def _same_problems(self) -> Results:
        bits = [bits for model in self.models for bits in model.answers.values()]
        bits += [mask for masks in self.groups.values() for mask in masks.values()]
        if len({len(each) for each in bits}) > 1:
            raise ValueError("answers and groups differ in length; each needs one character per problem")
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
        """Of a run with measured rounds: its best model against SFT and the model with meta-skills, or else against the
        base, and where the first of them is the best, the last round against it."""
        best, rounds = self.best, [model for model in self.models if round_number(model.name)]
        if best is None or not rounds:
            return []
        references = [name for name in (SFT, META) if self.model(name)] or [BASE]
        pairs = [(best, other) for name in references if name != best.name and (other := self.model(name))]
        if best not in rounds:
            pairs.append((rounds[-1], best))
        modes: tuple[Mode, ...] = ("direct", "refined")
        return [
            ModelComparison.of(a.name, from_bits(a.answers[mode]), b.name, from_bits(b.answers[mode]), mode)
            for a, b in pairs
            for mode in modes
        ]

    def rates(self, by: Split, model: ModelResults, mode: Mode) -> dict[str, Rate]:
        """A model's rate in each group of problems."""
        answers = model.answers[mode]
        return {
            name: rate_of("".join(bit for bit, belongs in zip(answers, mask, strict=True) if belongs == "1"))
            for name, mask in self.groups.get(by, {}).items()
        }

    def table(self) -> str:
        """A text table: accuracies and verdict precision, in percent, with 95 % intervals."""
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
    """The results of a run directory, or from a file.

    Raises RunError if they are missing, damaged or of another version.
    """
    place = Path(path)
    return load_stored(Results, Layout(place).results if place.is_dir() else place)


def read_results(root: Path) -> Results | None:
    """The results of a run directory. None if none are written yet."""
    return load_results(root) if Layout(root).results.is_file() else None


def write_results(root: Path, results: Results) -> None:
    write_atomic(Layout(root).results, results.model_dump_json(indent=2))


T = TypeVar("T", bound=Stored)


def load_stored(kind: type[T], path: Path) -> T:
    """Reads a JSON file as `kind`. Raises RunError if it is unreadable or its `version` differs."""
    remedy = "delete it and run the command that wrote it again"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); give a run directory or its file") from None
    except (ValueError, RecursionError) as error:
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
        given = "missing" if first["type"] == "missing" else json.dumps(first["input"], default=str)[:80]
        raise RunError(f"{path} is damaged: {place} is {given}; {remedy}") from None
