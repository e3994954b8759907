"""The types of ablation.json: the models of several runs side by side, over the same seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from selfevo.rundir.fields import Count
from selfevo.rundir.results import AuditCounts, ModelComparison, RowCounts, Verdicts, load_stored
from selfevo.rundir.scores import Marks, Stored, Transitions, from_bits, rate_of
from selfevo.statistics import Rate, compare_counts

SELF = "self"  # the run as configured; the other rows are compared with it
Answered = Literal["direct", "refined"]
Voted = Literal["consistency", "both"]


class Votes(Stored):
    """Answers that several samples voted for, compared with the refined answers to the same problems."""

    gained: Count = Field(description="problems that only the vote gets right")
    lost: Count = Field(description="problems that only the refined answer gets right")


class Cost(Stored):
    """The cost of runs, summed over seeds."""

    seconds: float = Field(description="wall-clock time")
    device_seconds: float = Field(description="time in which the device generated or trained")
    prompt_tokens: Count = Field(description="tokens that models and annotators read")
    new_tokens: Count = Field(description="tokens that they wrote")
    trained_tokens: Count = Field(description="tokens that were trained on")
    dollars: float = Field(description="US dollars that annotation cost")


class AblationRow(Stored):
    """One model, with one run per seed. Counts are sums over all seeds."""

    name: str = Field(description="name of the variant, or `VARIANT, MODEL` for a model before its rounds")
    answers: dict[Answered, dict[int, Marks]] = Field(
        description="by seed: one character per problem, in the order of the problems; 1 is right"
    )
    votes: dict[Voted, Votes] = Field({}, description="by way of voting; empty without several samples")
    verdicts: Verdicts = Field(description="its verdicts on its own direct answers")
    rounds: tuple[int, ...] = Field(description="number of rounds for each seed; empty for a model before the rounds")
    rows: RowCounts | None = Field(description="rows of all rounds; null for a model before the rounds")
    audit: AuditCounts | None = Field(description="audit of all rounds; null if answers are not known")
    cost: Cost | None = Field(description="cost of the variant's runs; null for a model before the rounds")

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, sorted."""
        return sorted(self.answers["direct"])

    def rate(self, mode: Answered, seed: int | None = None) -> Rate:
        """Over all seeds, or for one seed."""
        bits = self._bits(mode, self.seeds if seed is None else [seed])
        return rate_of(bits)

    def voted(self, mode: Voted) -> tuple[Rate, ModelComparison] | None:
        """The rate of the votes, compared with the refined answers. None without a vote."""
        votes, refined = self.votes.get(mode), self.rate("refined")
        if votes is None:
            return None
        test = compare_counts(votes.gained, votes.lost, refined.n)
        rate = Rate(refined.n, refined.correct + votes.gained - votes.lost)
        return rate, ModelComparison(a=self.name, b=f"{self.name}, refined", mode=mode, **asdict(test))

    @property
    def transitions(self) -> Transitions:
        """From direct to refined answers."""
        return Transitions.between(self._bits("direct", self.seeds), self._bits("refined", self.seeds))

    def against(self, other: AblationRow, mode: Answered) -> ModelComparison | None:
        """Compares with another row on the problems of their common seeds. None: no common seed."""
        seeds = [seed for seed in self.seeds if seed in other.seeds]
        if not seeds:
            return None
        ours, theirs = (from_bits(row._bits(mode, seeds)) for row in (self, other))
        return ModelComparison.of(self.name, ours, other.name, theirs, mode)

    def _bits(self, mode: Answered, seeds: list[int]) -> str:
        return "".join(self.answers[mode][seed] for seed in seeds)


class Ablation(Stored):
    """The content of ablation.json."""

    version: Literal[1] = Field(1, description="version of this format")
    rows: tuple[AblationRow, ...] = Field(description="base, sft, meta and self, then the variants")

    @property
    def seeds(self) -> list[int]:
        """The seeds of all rows, sorted."""
        return sorted({seed for row in self.rows for seed in row.seeds})

    def row(self, name: str) -> AblationRow | None:
        return next((row for row in self.rows if row.name == name), None)

    def against_self(self, row: AblationRow, mode: Answered) -> ModelComparison | None:
        """Compares `row` with the last round of `self`. None for `self`, and without a common seed."""
        reference = self.row(SELF)
        return None if reference is None or row.name == SELF else row.against(reference, mode)


def load_ablation(path: str | Path) -> Ablation:
    """The table from a folder that `selfevo ablate` wrote, or from a file.

    Raises RunError if it is missing, damaged or of another version.
    """
    place = Path(path)
    return load_stored(Ablation, place / "ablation.json" if place.is_dir() else place)
