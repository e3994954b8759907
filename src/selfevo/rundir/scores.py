"""How answers are stored: one mark per problem, right or wrong, or won, lost or tied against other answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from selfevo.rundir.fields import Count
from selfevo.statistics import Rate

Bits = Annotated[str, StringConstraints(pattern="^[01]*$")]
Marks = Annotated[str, StringConstraints(pattern="^[01=?]*$")]
Score = float | Literal["?"]  # 1 right or won, 0 wrong or lost, 0.5 a tie, ? a comparison that could not be read
_MARKS: dict[Score, str] = {1.0: "1", 0.0: "0", 0.5: "=", "?": "?"}
_SCORES = {"1": 1.0, "0": 0.0, "=": 0.5, "?": 0.5}


def to_bits(values: Sequence[Score]) -> Marks:
    """One mark per score, in order: 1 for each true value."""
    return "".join(_MARKS[value] for value in values)


def from_bits(bits: Marks) -> list[float]:
    """The scores. A comparison that could not be read counts as a tie."""
    return [_SCORES[bit] for bit in bits]


def rate_of(bits: Marks) -> Rate:
    total = sum(from_bits(bits))
    return Rate(len(bits), int(total) if total == int(total) else total)  # halves are of ties alone


class Stored(BaseModel):
    """Base of the stored types: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Transitions:
    """How many answers are right or wrong before and after refinement."""

    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_wrong: int

    @classmethod
    def of(cls, n: int, before: int, after: int, both: int) -> Transitions:
        """From counts: of `n` answers `before` are right before, `after` after, and `both` both times."""
        return cls(both, before - both, after - both, n - before - after + both)

    @classmethod
    def between(cls, before: Marks, after: Marks) -> Transitions:
        """From the marks of the same problems. Against other answers, a better score is wrong to right."""
        pairs = list(zip(from_bits(before), from_bits(after), strict=True))
        better, worse = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
        both = pairs.count((1, 1))
        return cls(both, worse, better, len(pairs) - both - worse - better)


@dataclass(frozen=True, slots=True)
class Wins:
    """Comparisons with other answers, and the two-sided p of the sign test of wins against losses."""

    wins: int
    ties: int
    losses: int
    unread: int
    p_value: float


class Comparisons(Stored):
    """What a judge's comparisons of one model's answers were like, beside wins, ties and losses."""

    no_reply: Count = Field(description="comparisons, among those that could not be read, in which it wrote nothing")
    flipped: Count = Field(description="comparisons in which its choice followed the order: ties")
    length_controlled: float | None = Field(
        description="win rate at equal length, as in AlpacaEval 2; null if no choice could be read"
    )


class JudgeResults(Stored):
    """Who compared the answers, and with which."""

    name: str = Field(description="the judge: base, a model folder, a hub id or the name on a server")
    reference: str = Field(description="the answers to beat: those of base, or the file with recorded ones")
