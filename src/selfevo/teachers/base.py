"""The protocol of an annotator, which writes feedback on a response and a refinement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfevo.method.records import Drafted


@dataclass(frozen=True, slots=True)
class Annotation:
    """Feedback `f` that ends in a verdict, and the refined response `r^`.

    `reason` says why they are unusable; `reply` is then what the annotator wrote instead. "" if
    they are usable. The cost is in tokens and US dollars.
    """

    feedback: str
    refinement: str
    reason: str = ""
    reply: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    dollars: float = 0.0


class Teacher(Protocol):
    """The annotator of D_meta."""

    def key(self, draft: Drafted) -> str:
        """A hash of all that changes its annotation of `draft`."""
        ...

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        """Annotations with their position in `drafts`, as they come. Each position comes once."""
        ...
