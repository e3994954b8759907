"""Reading a configuration: YAML, dotted overrides, and what is said of a mistake in it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from selfevo.config.run_config import TAGS, RunConfig
from selfevo.errors import ConfigError

Section = TypeVar("Section", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads YAML and applies `a.b=value` overrides (values are YAML). Raises ConfigError: value, key and remedy."""
    return parse_config(apply_overrides(read_yaml(path), overrides), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a configuration file. Raises ConfigError where it is missing or holds something else."""
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist; `selfevo init {path}` writes one to start from")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}, not keys and values; see `selfevo init`")
    return data


def merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `changes`: a section in both is changed key by key, everything else is replaced."""
    result = dict(data)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    data = json.loads(json.dumps(data, default=str))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} is not of the form key.subkey=value")
        *parents, last = key.strip().split(".")
        place = data
        for parent in parents:
            if not isinstance(place.setdefault(parent, {}), dict):
                raise ConfigError(f"--set {override!r}: {parent!r} holds a value, not further keys")
            place = place[parent]
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not YAML: {' '.join(str(error).split())}") from None
    return data


def parse_config(data: dict[str, Any], source: str) -> RunConfig:
    return parse(RunConfig, data, source)


def parse(section: type[Section], data: dict[str, Any], source: str) -> Section:
    """`data` as a section of the configuration. Raises ConfigError with the source, the key, the value, the remedy."""
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e, source) for e in error.errors()[:3])) from None


def _explain(error: Any, source: str) -> str:
    place = [str(part) for part in error["loc"] if part not in TAGS]
    key = ".".join(place)
    match error["type"]:
        case "extra_forbidden":
            names = _field_names(place[:-1])
            close = difflib.get_close_matches(place[-1], names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"
            return f"{source}: unknown key {key!r}; {hint}"
        case "missing":
            return f"{source}: {key!r} is missing; add it"
        case "value_error":
            return f"{source}: {key}: {error['ctx']['error']}" if key else f"{source}: {error['ctx']['error']}"
        case _:
            shown = json.dumps(error["input"], default=str)[:80]
            return f"{source}: {key} is {shown}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _field_names(place: Sequence[str]) -> list[str]:
    """Field names of the section at `place`; of sections told apart by their kind, the kind is a step of the way."""
    sections: list[type[BaseModel]] = [RunConfig]
    for part in place:
        if part.isdecimal():  # a place in a list
            continue
        own = [section for section in sections if _kind(section) == part]
        sections = own or [found for section in sections for found in _sections(section.model_fields[part].annotation)]
    return [name for section in sections for name in section.model_fields]


def _kind(section: type[BaseModel]) -> Any:
    return section.model_fields["kind"].default if "kind" in section.model_fields else None


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _sections(argument)]
