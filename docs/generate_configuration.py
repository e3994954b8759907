"""Writes docs/reference/configuration.md from the types of a configuration: `python docs/generate_configuration.py`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from selfevo.config.base import OwnPart
from selfevo.config.run_config import RunConfig

TARGET = Path(__file__).parent / "reference" / "configuration.md"
HEADER = """# Configuration

Generated from the types in `src/selfevo/config` by `python docs/generate_configuration.py`; a test
keeps it true.

A run is one YAML file; `selfevo init` writes a commented one. Any key can be overridden on the
command line: `selfevo run config.yaml --set trainer.learning_rate=1e-5 --set rounds=2`. An unknown
key is an error. A section that is given in part keeps its other defaults. A part that is named
`package.module:Name` is your own: [Extending](../extending.md).
"""


Field = tuple[FieldInfo, Any]  # with the default, which hangs on the place where a section stands


def render() -> str:
    top = {name: (info, info.get_default()) for name, info in RunConfig.model_fields.items()}
    found: dict[Any, str] = {}
    for name, field in top.items():
        find(name, field, found)
    body = "".join(described(place, sections, default, found) for (sections, default, _), place in found.items())
    return f"{HEADER}\n## Top level\n\n{RunConfig.__doc__}\n{table(top, found)}{body}"


def find(place: str, field: Field, found: dict[Any, str]) -> None:
    """Adds the sections that the key `place` can hold, and those below them; each stands where it is first met."""
    if (key := key_of(field)) is not None and key not in found:
        found[key] = place
        for section in key[0]:
            for name, inner in fields_of(section, field[1]).items():
                find(f"{place}.{name}", inner, found)


def key_of(field: Field) -> Any:
    """What makes two places hold the same: the sections, and where they have values by default, all that is said."""
    info, default = field
    sections = tuple(nested(info.annotation))
    if not sections:
        return None
    return (sections, default, info.description) if isinstance(default, BaseModel) else (sections, None, None)


def fields_of(section: type[BaseModel], default: Any) -> dict[str, Field]:
    here = default if isinstance(default, section) else None
    return {
        name: (info, getattr(here, name, info.get_default(call_default_factory=True)))
        for name, info in section.model_fields.items()
        if name != "kind" or issubclass(section, OwnPart)
    }


def described(place: str, sections: tuple[type[BaseModel], ...], default: Any, found: dict[Any, str]) -> str:
    titles = [f"`{place}` {told_apart(section)}" if len(sections) > 1 else f"`{place}`" for section in sections]
    parts = []
    if len(sections) > 1:
        parts = [f"\n## `{place}`\n\nOne of these:\n\n", *(f"- [{title}](#{slug(title)})\n" for title in titles)]
    for title, section in zip(titles, sections, strict=True):
        level = "###" if len(sections) > 1 else "##"
        parts.append(f"\n{level} {title}\n\n{words(section)}\n{table(fields_of(section, default), found)}")
    return "".join(parts)


def table(fields: dict[str, Field], found: dict[Any, str]) -> str:
    """What has to be given comes first."""
    if not fields:
        return ""
    ordered = sorted(fields.items(), key=lambda field: not field[1][0].is_required())
    rows = [row(name, field, found) for name, field in ordered]
    return "".join(["\n| key | type | default | meaning |\n|---|---|---|---|\n", *rows])


def row(name: str, field: Field, found: dict[Any, str]) -> str:
    info, default = field
    kind, meaning = type_name(info.annotation), info.description or ""
    if key := key_of(field):
        several = {"filter": "one or a list of ", "rounds": "int or a list of "}.get(name, "")
        kind = f"{several}[section{'s' * bool(several)}](#{slug(found[key])})"
        meaning = meaning or first_sentence(key[0][0])
    shown = "required" if info.is_required() else show(default)
    return f"| `{name}` | {kind} | {shown} | {escaped(meaning)} |\n"


def told_apart(section: type[BaseModel]) -> str:
    if issubclass(section, OwnPart):
        return "of your own"
    if "kind" in section.model_fields:
        return f"of kind `{section.model_fields['kind'].default}`"
    return f"with `{next(name for name, info in section.model_fields.items() if info.is_required())}`"


def nested(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a setting can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in nested(argument)]


def type_name(annotation: Any) -> str:
    return " or ".join(dict.fromkeys(_type_names(annotation)))


def _type_names(annotation: Any) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _type_names(arguments[0])
    elif origin is Literal:
        yield from (f"`{value}`" for value in arguments)
    elif origin in (Union, UnionType):
        for argument in arguments:
            if argument is not type(None):
                yield from _type_names(argument)
    elif origin is not None:
        inner = ", ".join(type_name(argument).replace("`", "") for argument in arguments if argument is not Ellipsis)
        yield f"{ {'tuple': 'list', 'dict': 'keys'}.get(origin.__name__, origin.__name__) } of {inner}"
    else:
        yield {"Path": "path", "Any": "anything"}.get(annotation.__name__, annotation.__name__)


def show(value: Any) -> str:
    if value in (None, "") or value is PydanticUndefined:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(show(each) for each in value) or "none"
    if isinstance(value, BaseModel):
        return f"`{value.kind}`" if hasattr(value, "kind") else "as below"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def words(section: type[BaseModel]) -> str:
    """The docstring, with its paragraphs wrapped anew."""
    return "\n\n".join(textwrap.fill(part, 100) for part in inspect.cleandoc(section.__doc__ or "").split("\n\n"))


def first_sentence(section: type[BaseModel]) -> str:
    return re.split(r"(?<=\.)\s", words(section))[0].rstrip(".").replace("\n", " ")


def escaped(text: str) -> str:
    """A | would end the cell."""
    return text.replace("|", "\\|")


def slug(title: str) -> str:
    """The anchor that Markdown gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
