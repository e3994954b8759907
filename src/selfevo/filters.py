"""Which judged rows become training data. A filter returns None to keep a row, or the reason to drop it."""

from __future__ import annotations

from collections.abc import Callable

from selfevo.prompts import Verdict, parse_verdict
from selfevo.records import Judged

Filter = Callable[[Judged], str | None]


def by_verdict(row: Judged) -> str | None:
    """The paper's filter: keep (p, r^) only where the second self-feedback says qualified."""
    verdict = parse_verdict(row.judgement)
    if verdict is Verdict.QUALIFIED:
        return None
    return "verdict not qualified" if verdict is Verdict.NOT_QUALIFIED else "verdict unreadable"


def keep_all(row: Judged) -> str | None:
    """No filter: the ablation."""
    return None


FILTERS: dict[str, Filter] = {"verdict": by_verdict, "none": keep_all}
