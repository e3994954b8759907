"""What is odd about D_meta, counted by reason: it teaches the critic, so its faults become the model's.

A row that cannot be used is quarantined when it is read or annotated. A doubtful row is used, and
counted. Too many of them, or nearly always the same verdict, stop a run before its first training,
unless D_meta is very small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from selfevo.config.sources import CorpusConfig
from selfevo.errors import DataError
from selfevo.method.prompts import Wording
from selfevo.method.records import Refined, Turns
from selfevo.method.thinking import spoken
from selfevo.method.verdicts import Verdict

ENOUGH = 20  # rows; of a smaller D_meta a share says little
SOME = 8  # rows; even so few need not have the same verdict, all of them

CHANGED = "qualified, but the refinement changes the response"
UNCHANGED = "not qualified, but the refinement repeats the response"
WORDLESS = "feedback without words"
REPEATED = "the same row again"
CONTRADICTED = "two verdicts on the same response"


@dataclass(frozen=True, slots=True)
class CorpusCounts:
    """The rows of D_meta: how many have each verdict, and how many are doubtful, by reason.

    A row may be doubtful for several reasons; `doubtful_rows` counts it once. `quarantined` holds
    the rows that did not come into D_meta, by reason.
    """

    verdicts: Counter[str]
    doubtful: Counter[str]
    doubtful_rows: int
    quarantined: Counter[str]

    @property
    def rows(self) -> int:
        return self.verdicts.total()

    def as_json(self) -> dict[str, Any]:
        parts = {"verdicts": self.verdicts, "doubtful": self.doubtful, "quarantined": self.quarantined}
        return {"rows": self.rows, **{name: dict(sorted(counts.items())) for name, counts in parts.items()}}

    def __str__(self) -> str:
        parts = [listed(self.verdicts)]
        for name, counts in (("doubtful", self.doubtful), ("quarantined", self.quarantined)):
            parts += [f"{name}: {listed(counts)}"] if counts else []
        return "; ".join(parts)


def count(rows: Sequence[Refined], wording: Wording, quarantined: Iterable[str] = ()) -> CorpusCounts:
    """Counts the rows of D_meta. `quarantined` are the reasons of the rows that did not come into it."""
    given: dict[Turns, set[Verdict]] = {}
    for row in rows:
        given.setdefault((*row.conversation, row.response), set()).add(wording.parse(row.feedback))
    seen: set[Turns] = set()
    verdicts, doubtful = Counter[str](), Counter[str]()
    rows_in_doubt = 0
    for row in rows:
        verdict = wording.parse(row.feedback)
        verdicts[verdict.value] += 1
        whole = (*row.conversation, row.response, row.feedback, row.refinement)
        is_same = spoken(row.response).split() == spoken(row.refinement).split()  # who refines sees no thinking
        reasons = {
            CHANGED: verdict is Verdict.QUALIFIED and not is_same,
            UNCHANGED: verdict is Verdict.NOT_QUALIFIED and is_same,
            WORDLESS: not wording.without_verdict(row.feedback).strip(),
            REPEATED: whole in seen,
            CONTRADICTED: len(given[*row.conversation, row.response]) > 1,
        }
        seen.add(whole)
        found = [reason for reason, holds in reasons.items() if holds]
        doubtful.update(found)
        rows_in_doubt += bool(found)
    return CorpusCounts(verdicts, doubtful, rows_in_doubt, Counter(quarantined))


def check_sound(counts: CorpusCounts, corpus: CorpusConfig | None) -> None:
    """Raises DataError where D_meta has too many doubtful rows, or verdicts that are too much the same."""
    if faults := [fault for check in (doubt, imbalance) if (fault := check(counts, corpus))]:
        raise DataError("; ".join(faults))


def doubt(counts: CorpusCounts, corpus: CorpusConfig | None) -> str | None:
    """Why there are too many doubtful rows, with the remedy; None if there are not."""
    if corpus is None or counts.rows < ENOUGH or counts.doubtful_rows <= corpus.max_doubtful_share * counts.rows:
        return None
    return (
        f"D_meta: {counts.doubtful_rows} of {counts.rows} rows are doubtful ({listed(counts.doubtful)}), more than "
        f"{corpus.max_doubtful_share:.1%}; correct or remove them, or raise corpus.max_doubtful_share"
    )


def imbalance(counts: CorpusCounts, corpus: CorpusConfig | None) -> str | None:
    """Why the verdicts are too much the same, with the remedy; None if they are not."""
    enough = SOME if len(counts.verdicts) == 1 else ENOUGH
    if corpus is None or counts.rows < enough or max(counts.verdicts.values()) <= corpus.max_one_verdict * counts.rows:
        return None
    return (
        f"D_meta: of {counts.rows} rows {listed(counts.verdicts)}, so one verdict has more than "
        f"{corpus.max_one_verdict:.1%} and a critic learns to always give it; add rows with the other verdict, or "
        "raise corpus.max_one_verdict"
    )


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
