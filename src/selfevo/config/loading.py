"""Reads a configuration: YAML, dotted overrides, and error messages that explain a mistake."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, TypeAdapter, ValidationError

from selfevo.config.run_config import RunConfig
from selfevo.config.sections import EngineConfig
from selfevo.errors import ConfigError

Section = TypeVar("Section", bound=BaseModel)
ENGINE: TypeAdapter[EngineConfig] = TypeAdapter(EngineConfig)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads YAML and applies `a.b=value` overrides (values are YAML). Raises ConfigError on a mistake."""
    return parse_config(apply_overrides(read_yaml(path), overrides), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError if it is missing or not such a file."""
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist; `selfevo init {path}` writes one to start from")
    try:
        data = _load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; give a text file in UTF-8") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML for a configuration: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}, not keys and values; `selfevo init` writes an example")
    return data


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    data = json.loads(json.dumps(data, default=str))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} does not have the form key.subkey=value")
        *parents, last = key.strip().split(".")
        place = data
        for parent in parents:
            if not isinstance(place.setdefault(parent, {}), dict):
                raise ConfigError(
                    f"--set {override!r}: {parent!r} holds a value, so it has no keys; set {parent!r} itself"
                )
            place = place[parent]
        try:
            place[last] = _load(value)
        except ValueError as error:
            raise ConfigError(f"--set {override!r}: the value is not YAML for a configuration: {error}") from None
    return data


class _Loader(yaml.SafeLoader):
    """YAML whose keys are texts, each once; what looks like a date stays a text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            name = str(key.value)
            fault = (
                f"the key {name!r} is there twice"
                if name in seen
                else f"the key {name!r} is no text; quote it"
                if key.tag not in (_TEXT, _MERGE)
                else ""
            )
            if fault:
                raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def _load(text: str) -> Any:
    """The data of a YAML text. Raises ValueError with a line that says what is wrong."""
    try:
        data = yaml.load(text, _Loader)
        json.dumps(data, default=str)  # an alias may hold itself
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{error}; an alias (*name) must not hold itself") from None
    return data


def parse_config(data: dict[str, Any], source: str) -> RunConfig:
    """`data` as a configuration. Raises ConfigError on a mistake."""
    return parse(RunConfig, data, source)


def parse(section: type[Section], data: dict[str, Any], source: str) -> Section:
    """`data` as one section of a configuration. Raises ConfigError on a mistake."""
    with explained(section, source):
        return section.model_validate(data)


def parse_engine(data: dict[str, Any], source: str) -> EngineConfig:
    with explained(EngineConfig, source):
        return ENGINE.validate_python(data)


@contextmanager
def explained(annotation: Any, source: str) -> Iterator[None]:
    """Turns a ValidationError of pydantic for the type `annotation` into a one-line ConfigError."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e, annotation, source) for e in error.errors()[:3])) from None


def _explain(error: Any, annotation: Any, source: str) -> str:
    place, sections = _follow(annotation, error["loc"])
    key = ".".join(place)
    where = f"{source}: {key}" if key else source
    shown = json.dumps(error["input"], default=str)[:80]
    match error["type"]:
        case "extra_forbidden":
            names = [name for section in sections for name in section.model_fields]
            return f"{source}: unknown key {key!r}; {_near(place[-1], names)}"
        case "missing":
            return f"{source}: {key!r} is missing; add it"
        case "value_error":
            return f"{where}: {error['ctx']['error']}"
        case "union_tag_invalid":
            kinds = [str(section.model_fields["kind"].default) for section in sections]
            hint = _near(error["ctx"]["tag"], [*kinds, "package.module:Name for your own"])
            return f'{where}: there is no kind "{error["ctx"]["tag"]}"; {hint}'
        case "union_tag_not_found":
            return f"{where} is {shown}; add its kind"
        case "model_type":
            return f"{where} is {shown}; give keys and values"
        case _:
            return f"{where} is {shown}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"


def _follow(annotation: Any, location: Sequence[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of `location`, and the sections in which it ends or in which its last key is unknown.

    Where pydantic chose one of several sections, `location` has an extra step, the tag of the
    section. The user did not write that step, so it is left out.
    """
    place, here = [], _sections(annotation)
    around = here
    for step in location:
        if chosen := [(section, tags - {step}) for section, tags in here if step in tags]:
            here = chosen
        elif isinstance(step, int):
            place.append(str(step))
        elif not step.startswith("<"):
            place.append(step)
            fields = [section.model_fields[step] for section, _ in here if step in section.model_fields]
            around, here = here, [found for field in fields for found in _sections(field.annotation)]
    return place, [section for section, _ in here or around]


def _sections(
    annotation: Any, tags: frozenset[str | int] = frozenset()
) -> list[tuple[type[BaseModel], frozenset[Any]]]:
    """The sections that a setting can hold, each with the tags that select it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields["kind"].default if "kind" in annotation.model_fields else None
        return [(annotation, tags | {kind})]
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        return _sections(annotation, tags | {each.tag for each in metadata if isinstance(each, Tag)})
    return [found for argument in get_args(annotation) for found in _sections(argument, tags)]
