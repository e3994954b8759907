"""Writes docs/reference/configuration.md from the types of a configuration: `python docs/generate_configuration.py`."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from selfevo.config.run_config import RunConfig

HEADER = """# Configuration

Generated from `config.py` and `sections.py` by `python docs/generate_configuration.py`; a test keeps it true.
A run is one YAML file; `selfevo init` writes a commented one. Any key can be overridden on the command line:
`selfevo run config.yaml --set trainer.learning_rate=1e-5 --set rounds=2`. Unknown keys are errors.
"""


def render() -> str:
    parts = [HEADER]
    pending: list[tuple[str, type[BaseModel]]] = [("Top level", RunConfig)]
    while pending:
        place, section = pending.pop(0)
        parts.append(f"\n## {place}\n\n{inspect.cleandoc(section.__doc__ or '')}\n")
        if section.model_fields.keys() - {"kind"}:
            parts.append("\n| key | type | default | meaning |\n|---|---|---|---|\n")
        for name, info in section.model_fields.items():
            if name == "kind" and "kind" in place:
                continue
            inner = nested(info.annotation)
            path = f"{place.strip('`')}.{name}" if place != "Top level" else name
            if len(inner) == 1:
                pending.append((f"`{path}`", inner[0]))
            else:  # one of several, told apart by their kind
                pending += [(f"`{path}`, kind `{each.model_fields['kind'].default}`", each) for each in inner]
            default = "required" if info.is_required() else show(info.get_default(call_default_factory=True))
            meaning = info.description or ((inner[0].__doc__ or "").strip().split("\n")[0] if inner else "")
            many = type_name(info.annotation).startswith("int or") if inner else False
            kind = ("int or list of sections" if many else "section") if inner else type_name(info.annotation)
            if len(inner) > 1:
                kind = "a kind, a section with a kind, or a list of them"
            parts.append(f"| `{name}` | {kind} | {default} | {meaning} |\n")
    return "".join(parts)


def nested(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a setting can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in nested(argument)]


def type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(type_name(argument) for argument in arguments if argument is not type(None))
    if origin is not None:
        inner = (type_name(argument).replace("`", "") for argument in arguments if argument is not Ellipsis)
        return f"{origin.__name__} of {', '.join(inner)}"
    return str(annotation.__name__) if isinstance(annotation, type) else "any"


def show(value: Any) -> str:
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return ", ".join(f"`{getattr(each, 'kind', 'see below')}`" for each in value)
    return "see below" if isinstance(value, BaseModel) else f"`{value}`"


if __name__ == "__main__":
    Path(__file__).with_name("reference").joinpath("configuration.md").write_text(render(), encoding="utf-8")
