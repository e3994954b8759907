"""The JSON objects of a run directory, checked as they are read.

A key that is there has its type, else the reader raises RunError. A key that is missing raises
RunError where it is asked for. Both name the file. Keys that are not listed here may hold anything.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from selfevo.errors import RunError

_CONFIG = ConfigDict(extra="allow", strict=True)
Count = Annotated[int, Field(ge=0, lt=2**63)]
Texts = dict[str, str]
Object = dict[str, Any]


class _BeforeFields(TypedDict):
    __pydantic_config__ = _CONFIG  # type: ignore[misc]
    rounds: Count
    count: Count | None
    pool: Count
    begun: list[Count]


class MarkerFields(TypedDict, total=False):
    """Of X.done.json, selfevo.json, manifest.json and config.json."""

    __pydantic_config__ = _CONFIG  # type: ignore[misc]
    sha256: str
    keys: str
    rows: dict[str, Count]
    name: str
    weights: str
    start: str
    start_weights: str
    lineage: str
    files: Texts
    examples: dict[str, Count]
    figures: dict[str, float]
    seconds: float
    selfevo: str
    platform: Texts
    d_meta: Object
    parts: Texts
    model: str
    seed: int
    policy: str
    beta: float
    objective: Object
    filter: list[Object | str]
    evaluation: Object | None
    ablation: Object
    skills: Object
    system: str
    wording: Texts
    rounds: Count | list[Object]
    prompts: Object | None
    continued: list[_BeforeFields]


class _GenerationFields(TypedDict, total=False):
    __pydantic_config__ = _CONFIG  # type: ignore[misc]
    text: str
    finish: str
    prompt_tokens: Count
    new_tokens: Count


class RowFields(TypedDict, total=False):
    """Of a line of X.jsonl."""

    __pydantic_config__ = _CONFIG  # type: ignore[misc]
    id: str
    key: str
    status: str
    reason: str | None
    kept: bool
    prompt: str | Object
    system: str
    history: list[str]
    response: str
    feedback: str
    refinement: str
    judgement: str
    result: Object
    generation: _GenerationFields


MARKER: TypeAdapter[Any] = TypeAdapter(MarkerFields)
ROW: TypeAdapter[Any] = TypeAdapter(RowFields)


class Fields(dict[str, Any]):
    """A JSON object. `place` and `remedy` are for the message about a key that it does not have."""

    def __init__(self, values: dict[str, Any], place: str, remedy: str) -> None:
        super().__init__((key, Fields(v, place, remedy) if isinstance(v, dict) else v) for key, v in values.items())
        self.place, self.remedy = place, remedy

    def __missing__(self, key: str) -> NoReturn:
        raise RunError(f"{self.place} has no {key!r}; {self.remedy}")


def checked(values: dict[str, Any], fields: TypeAdapter[Any], place: str, remedy: str) -> Fields:
    """`values` as Fields. Raises RunError if one of `fields` has another type."""
    try:
        fields.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        found = json.dumps(first["input"])[:80]
        raise RunError(f"{place} is damaged: {key} is {found}; {remedy}") from None
    return Fields(values, place, remedy)
