"""The protocol of an annotator, which writes feedback on a response and a refinement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from selfevo.method.records import Drafted
from selfevo.rundir.ledger import Cost, Ledger


@dataclass(frozen=True, slots=True)
class Annotation:
    """Feedback `f` that ends in a verdict, and the refined response `r^`.

    `reason` says why they are unusable; it is "" if they are usable. `reply` is the unusable text of
    the annotator. The cost is in tokens and US dollars. `settings` are those that may change
    between the rows of a run.
    """

    feedback: str
    refinement: str
    reason: str = ""
    reply: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    dollars: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)


class Teacher(Protocol):
    """The annotator of D_meta."""

    def key(self, draft: Drafted) -> str:
        """A hash of all that changes its annotation of `draft`."""
        ...

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        """Annotations with their position in `drafts`, as they come. Each position comes once."""
        ...


@dataclass(frozen=True, slots=True)
class BookedTeacher:
    """Records in `ledger` the cost that a teacher reports, for a teacher without its own ledger."""

    teacher: Teacher
    ledger: Ledger

    def key(self, draft: Drafted) -> str:
        return self.teacher.key(draft)

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        for batch in self.teacher.annotate(drafts):
            costs = (Cost(each.prompt_tokens, each.new_tokens, each.dollars) for _, each in batch)
            if (cost := sum(costs, Cost())) != Cost():
                self.ledger.bill(self.ledger.call(cost), cost)
            yield batch
