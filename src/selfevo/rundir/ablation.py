"""The types of ablation.json: the models of several runs side by side, each over the same seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt

from selfevo.rundir.results import (
    AuditCounts,
    Bits,
    ModelComparison,
    RowCounts,
    Stored,
    Transitions,
    Verdicts,
    from_bits,
    load_stored,
)
from selfevo.statistics import Rate, compare_counts

SELF = "self"  # the row that the others are compared with
Answered = Literal["direct", "refined"]
Voted = Literal["consistency", "both"]


class Votes(Stored):
    """Answers elected from several samples, against the refined answers to the same problems."""

    gained: NonNegativeInt = Field(description="problems that the votes alone have right")
    lost: NonNegativeInt = Field(description="problems that the refined answers alone have right")


class Cost(Stored):
    """What runs cost, their seeds together."""

    seconds: float = Field(description="by the clock")
    device_seconds: float = Field(description="in which the device generated or trained")
    prompt_tokens: NonNegativeInt = Field(description="read by models and annotators")
    new_tokens: NonNegativeInt = Field(description="written by them")
    trained_tokens: NonNegativeInt = Field(description="trained on")
    dollars: float = Field(description="paid to an annotator")


class AblationRow(Stored):
    """One model, of as many runs as it has seeds. Counts are of all seeds together."""

    name: str = Field(description="of the variant, or `VARIANT, MODEL` for a model before its rounds")
    answers: dict[Answered, dict[int, Bits]] = Field(
        description="by seed, one character a problem, in the order of the problems: 1 is right"
    )
    votes: dict[Voted, Votes] = Field({}, description="where several samples were asked for")
    verdicts: Verdicts = Field(description="on its own direct answers")
    rounds: tuple[int, ...] = Field(description="how many of each seed; empty of a model before the rounds")
    rows: RowCounts | None = Field(description="of all rounds; null of a model before the rounds")
    audit: AuditCounts | None = Field(description="of all rounds, where answers are known")
    cost: Cost | None = Field(description="of the runs of a variant; null of a model on their way")

    @property
    def seeds(self) -> list[int]:
        """Those of its runs."""
        return sorted(self.answers["direct"])

    def rate(self, mode: Answered, seed: int | None = None) -> Rate:
        """Over all seeds, or of one."""
        bits = self._bits(mode, self.seeds if seed is None else [seed])
        return Rate(len(bits), bits.count("1"))

    def voted(self, mode: Voted) -> tuple[Rate, ModelComparison] | None:
        """The rate of the votes, and their comparison with the refined answers; None where nobody voted."""
        votes, refined = self.votes.get(mode), self.rate("refined")
        if votes is None:
            return None
        test = compare_counts(votes.gained, votes.lost, refined.n)
        rate = Rate(refined.n, refined.correct + votes.gained - votes.lost)
        return rate, ModelComparison(a=self.name, b=f"{self.name}, refined", mode=mode, **asdict(test))

    @property
    def transitions(self) -> Transitions:
        """From direct to refined answers."""
        before, after = (from_bits(self._bits(mode, self.seeds)) for mode in ("direct", "refined"))
        both = sum(a and b for a, b in zip(before, after, strict=True))
        return Transitions.of(len(before), sum(before), sum(after), both)

    def against(self, other: AblationRow, mode: Answered) -> ModelComparison | None:
        """Compared with another row on the problems of the seeds that both have; None where there are none."""
        seeds = [seed for seed in self.seeds if seed in other.seeds]
        if not seeds:
            return None
        ours, theirs = (from_bits(row._bits(mode, seeds)) for row in (self, other))
        return ModelComparison.of(self.name, ours, other.name, theirs, mode)

    def _bits(self, mode: Answered, seeds: list[int]) -> str:
        return "".join(self.answers[mode][seed] for seed in seeds)


class Ablation(Stored):
    """What ablation.json holds."""

    version: Literal[1] = Field(1, description="of this format")
    rows: tuple[AblationRow, ...] = Field(description="base, sft, meta and self, then each variant")

    @property
    def seeds(self) -> list[int]:
        """Those of any row."""
        return sorted({seed for row in self.rows for seed in row.seeds})

    def row(self, name: str) -> AblationRow | None:
        return next((row for row in self.rows if row.name == name), None)

    def against_self(self, row: AblationRow, mode: Answered) -> ModelComparison | None:
        """A row compared with the last round of `self`; None of that row, and where no seed is in both."""
        reference = self.row(SELF)
        return None if reference is None or row.name == SELF else row.against(reference, mode)


def load_ablation(path: str | Path) -> Ablation:
    """The table in a folder that `selfevo ablate` wrote, or in a file.

    Raises RunError where there is none, or it is damaged or of another version.
    """
    place = Path(path)
    return load_stored(Ablation, place / "ablation.json" if place.is_dir() else place)
