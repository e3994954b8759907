"""The records that pass through a round. Each stage adds one field, so the types forbid skipping a stage.

Prompt -> Drafted (r) -> Critiqued (f) -> Refined (r^) -> Judged (v)

A row that cannot go on is `Quarantined`, with its reason: the engine gave nothing usable. A `Judged` row that a filter
drops stays what it is; `Run` writes the reason beside it. None of these types has a field for a gold answer: the
algorithm cannot see one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def content_id(*parts: object) -> str:
    """First 16 hex digits of the SHA-256 of `parts` as JSON: equal content has an equal id, everywhere."""
    payload = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(payload.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One instruction `p`. `id` is the hash of its text, so duplicates and overlaps between sets are found by id."""

    id: str
    prompt: str

    @staticmethod
    def of(text: str) -> Prompt:
        return Prompt(content_id(text.strip()), text.strip())


@dataclass(frozen=True, slots=True)
class Drafted(Prompt):
    """With `r`, the model's first response."""

    response: str


@dataclass(frozen=True, slots=True)
class Critiqued(Drafted):
    """With `f`, language feedback on `r` that ends in a verdict."""

    feedback: str


@dataclass(frozen=True, slots=True)
class Refined(Critiqued):
    """With `r^`, the response written with p, r and f in view. A row of D_meta is of this type."""

    refinement: str


@dataclass(frozen=True, slots=True)
class Judged(Refined):
    """With `v`, the feedback on `r^` whose verdict decides whether (p, r^) is kept."""

    judgement: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row whose text could not be had: truncated, empty, or a prompt longer than the context."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence: a conversation of alternating user and assistant turns.

    `weights[i]` is the loss weight of the i-th assistant turn; 0 leaves it out of the loss. User turns are never in the
    loss. `term` names the part of the objective it belongs to: "skills" (f and r^), "answer" (beta), "self",
    "preference", where `rejected` is the text that the last turn is preferred to, or "prompt", which has no answer.
    """

    id: str
    turns: tuple[str, ...]
    weights: tuple[float, ...]
    term: str
    rejected: str = ""


def check_fields(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Why `row` cannot become a record with the text fields `names`; None if it can."""
    for name in names:
        value = row.get(name)
        if value is None:
            return f"column {name!r} is missing; the row has {', '.join(map(repr, row)) or 'no columns'}"
        if not isinstance(value, str):
            return f"column {name!r} holds {type(value).__name__}, not text"
        if not value.strip():
            return f"column {name!r} is empty"
    return None
