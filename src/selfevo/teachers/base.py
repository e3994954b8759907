"""What an annotator is: it writes feedback and a refinement on a response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfevo.method.records import Drafted


@dataclass(frozen=True, slots=True)
class Annotation:
    """Feedback `f` that ends in a verdict, and the refined response `r^`.

    `reason` says why they cannot be used, "" if they can; then `reply` is what was written instead. Cost is in tokens
    and US dollars.
    """

    feedback: str
    refinement: str
    reason: str = ""
    reply: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    dollars: float = 0.0


class Teacher(Protocol):
    """The annotator: writes D_meta."""

    def key(self, draft: Drafted) -> str:
        """A hash of all that decides what it writes on `draft`."""
        ...

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        """Annotations by position in `drafts`, as they come; each position comes once."""
        ...
