"""The base of all sections: unknown keys are errors, defaults stay, and unions have tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from selfevo.data.conversations import text_fault

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


def _readable(text: str) -> str:
    if text.strip() and (fault := text_fault(text)):
        raise ValueError(f"{fault}; correct it")
    return text.strip()


SystemPrompt = Annotated[str, AfterValidator(_readable)]
OWN, BUILT_IN = "<own>", "<built-in>"  # tags of the two members of a union by kind


def unless_default(default: Any, **settings: Any) -> Any:
    """A field that is written down, and counts in hashes, only if it has another value than its default.

    So a run that does not use it stays what it was before there was such a field.
    """
    return Field(default, exclude_if=lambda value: value == default, **settings)


class Strict(BaseModel):
    """A section. Keys that are not given keep the values of the default section."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults = {
            name: info.default.model_dump(exclude_unset=True)
            for name, info in cls.model_fields.items()
            if isinstance(info.default, BaseModel) and isinstance(data.get(name), dict)
        }
        return merged(defaults, data)


class OwnPart(Strict):
    """Your own part: docs/extending.md."""

    kind: str = Field(description="package.module:Name")
    options: dict[str, Any] = Field({}, description="its arguments")

    @field_validator("kind")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", value):
            raise ValueError(f"{value!r} does not have the form package.module:Name")
        return value


def merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `changes`. A section in both is merged key by key; other values are replaced."""
    result = dict(data)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def check_source(value: Any, names: Sequence[str]) -> Any:
    """`value` without null keys among `names`. Raises ValueError unless exactly one is left."""
    if not isinstance(value, dict):
        return value
    given = [name for name in names if value.get(name) is not None]
    if len(given) != 1:
        choices = f"{', '.join(names[:-1])} and {names[-1]}"
        found = f"{' and '.join(given)} are given" if given else "none is given"
        raise ValueError(f"give exactly one of {choices}; {found}")
    return {name: each for name, each in value.items() if name not in names or each is not None}


def exactly_one(*names: str) -> BeforeValidator:
    return BeforeValidator(lambda value: check_source(value, names))


def source_of(*names: str) -> Callable[[Any], str]:
    """Finds the member of a union by its key among `names`: the tag of `path` is <path>."""

    def tag(value: Any) -> str:
        has = value.__contains__ if isinstance(value, dict) else lambda name: hasattr(value, name)
        return f"<{next((name for name in names if has(name)), names[0])}>"

    return tag


def kind_or(default: str = "") -> BeforeValidator:
    """A text is short for {kind: text}. A missing kind is `default`, if there is one."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        return {"kind": default, **value} if default and isinstance(value, dict) else value

    return BeforeValidator(fill)


def own_or_built_in(value: Any) -> str:
    """The tag of a section with a kind. Your own part has a colon in its kind: package.module:Name."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return OWN if ":" in str(kind) else BUILT_IN
