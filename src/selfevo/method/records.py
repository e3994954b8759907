"""The records that pass through a round. Each stage adds one field, so a stage cannot be skipped.

Prompt -> Drafted (r) -> Critiqued (f) -> Refined (r^) -> Judged (v)

A row becomes `Quarantined`, with a reason, when the engine gives no usable text for it. A `Judged`
row that a filter drops stays a `Judged` row; the reason is written beside it. No type here has a
field for a gold answer, so the algorithm cannot see one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar

Turns = tuple[str, ...]  # the turns of a conversation: user, assistant, user, ...
Record = TypeVar("Record", bound="Prompt")


def content_id(*parts: object) -> str:
    """The first 16 hex digits of the SHA-256 of `parts` as JSON. Equal content has an equal id."""
    payload = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(payload.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt `p`: a conversation whose last user turn, `prompt`, is to be answered.

    `history` holds the earlier turns, user and assistant alternating. `system` is the system
    prompt. Most prompts have neither. `id` is the hash of all three, so duplicates and overlaps
    between splits are found by id.
    """

    id: str
    prompt: str
    system: str = field(default="", kw_only=True)
    history: Turns = field(default=(), kw_only=True)

    @staticmethod
    def of(text: str, *, system: str = "", history: Turns = ()) -> Prompt:
        """The prompt with its id. Raises ValueError when `history` does not end in an assistant turn."""
        if len(history) % 2:
            raise ValueError(
                f"history has {len(history)} turns; give pairs of a user turn and the assistant's response"
            )
        text, system = text.strip(), system.strip()
        id = content_id(text, system, history) if system or history else content_id(text)
        return Prompt(id, text, system=system, history=history)

    @property
    def prompt_id(self) -> str:
        """The id of the prompt itself. Each further sample of the prompt has its own `id`."""
        return Prompt.of(self.prompt, system=self.system, history=self.history).id

    @property
    def conversation(self) -> tuple[str, ...]:
        """System prompt and turns. Two prompts are the same if these are equal."""
        return (self.system, *self.history, self.prompt)


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
    """A row without a usable text: it was cut, empty, or its prompt is longer than the context."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence: alternating user and assistant turns, after a system prompt if any.

    `weights[i]` is the loss weight of the i-th assistant turn; 0 leaves it out of the loss. User
    turns are never in the loss. `term` names the part of the objective: "skills" (f and r^),
    "answer" (beta), "self", "preference" (the last turn is preferred to `rejected`), or "prompt"
    (no answer).
    """

    id: str
    turns: tuple[str, ...]
    weights: tuple[float, ...]
    term: str
    rejected: str = ""
    system: str = ""


def under(prompt: Prompt, system: str) -> Prompt:
    """The prompt with a system prompt, if it has none."""
    return prompt if prompt.system or not system else Prompt.of(prompt.prompt, system=system, history=prompt.history)


def extended(record: type[Record], row: Prompt, text: str) -> Record:
    """`row` as a `record`, a type with one more field. That field gets `text`."""
    values = {own.name: getattr(row, own.name) for own in fields(row)}
    [last] = [own.name for own in fields(record) if own.name not in values]
    build: Callable[..., Record] = record
    return build(**values, **{last: text})


def as_row(record: Any) -> dict[str, Any]:
    """A record as a JSON object for a file. An empty `system` or `history` is left out."""
    return asdict(record, dict_factory=_without_empty_context)


def from_row(record: type[Record], row: Mapping[str, Any]) -> Record:
    """The record in a JSON object. Keys that are not its fields are ignored."""
    values = {own.name: row[own.name] for own in fields(record) if own.name in row or own.default is MISSING}
    if "history" in values:
        values["history"] = tuple(values["history"])
    build: Callable[..., Record] = record
    return build(**values)


def _without_empty_context(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value or name not in ("system", "history")}


def check_fields(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Why `row` cannot become a record with the text fields `names`; None if it can."""
    for name in names:
        value = row.get(name)
        if value is None and name in row:
            return f"column {name!r} is empty"
        if value is None:
            return f"column {name!r} is missing; the row has {', '.join(map(repr, row)) or 'no columns'}"
        if not isinstance(value, str):
            return f"column {name!r} holds {type(value).__name__}, not text"
        if not value.strip():
            return f"column {name!r} is empty"
    return None
