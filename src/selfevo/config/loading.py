"""Reads a configuration: YAML, dotted overrides, and error messages that explain a mistake."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, TypeAdapter, ValidationError

from selfevo.config.run_config import RunConfig
from selfevo.config.sections import EngineConfig
from selfevo.errors import ConfigError
from selfevo.method.prompts import Wording
from selfevo.rundir.atomic_files import exists

Section = TypeVar("Section", bound=BaseModel)
_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "greater than or equal to",
    "less_than": "less than",
    "less_than_equal": "less than or equal to",
}
ENGINE: TypeAdapter[EngineConfig] = TypeAdapter(EngineConfig)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads YAML and applies `a.b=value` overrides (values are YAML). Raises ConfigError on a mistake."""
    return parse_config(apply_overrides(read_yaml(path), overrides), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError if it is missing or not such a file."""
    if not exists(path) or path.is_dir():
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


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_TAGS = {_TEXT, *(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "seq", "map"))}
_DEEPEST = 50
_MOST = 100_000  # values of a configuration, an alias counted with all that it stands for


class _Loader(yaml.SafeLoader):
    """YAML whose keys are texts, each once; what looks like a date stays a text."""

    yaml_constructors: ClassVar = {
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _TAGS
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError):  # !!int x, a number of 5,000 digits
            kind, value = node.tag.rpartition(":")[2], str(node.value)[:40]
            raise yaml.constructor.ConstructorError(None, None, f"{value!r} is no {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # !!map [1]
            raise yaml.constructor.ConstructorError(None, None, "it holds no keys and values", node.start_mark)
        seen = set[str]()
        for key, _ in node.value:
            name = str(key.value)
            fault = (
                f"the key {name!r} is there twice; remove one"
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


def _load(text: str) -> Any:
    """The data of a YAML text. Raises ValueError with a line that says what is wrong."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _size(node, {}, ())
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return data


def _size(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """The number of values in `node`. Raises ValueError if an alias holds itself, or if there are too many."""
    if id(node) in above:
        raise ValueError(f"line {node.start_mark.line + 1}: an alias (*name) must not hold itself")
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inside = (id(node), *above)
        sizes = [_size(part, known, inside) for part in parts] if isinstance(node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(sizes)
    if known[id(node)] > _MOST:
        raise ValueError(f"line {node.start_mark.line + 1}: its aliases stand for more than {_MOST:,} values")
    return known[id(node)]


def parse_config(data: dict[str, Any], source: str) -> RunConfig:
    """`data` as a configuration. Raises ConfigError on a mistake."""
    return parse(RunConfig, data, source)


def load_wording(path: Path | None) -> Wording | None:
    """The section `wording` of a configuration; the rest of the file is not read. None where there is no file."""
    return None if path is None else parse(Wording, read_yaml(path).get("wording") or {}, f"{path}: wording")


def parse(section: type[Section], data: dict[str, Any], source: str) -> Section:
    """`data` as one section of a configuration. Raises ConfigError on a mistake."""
    if not _within(data, _DEEPEST):
        raise ConfigError(f"{source}: it has more than {_DEEPEST} levels, or holds itself; make it flatter")
    with explained(section, source):
        return section.model_validate(data)


def _within(value: Any, levels: int) -> bool:
    """Whether `value` has at most so many levels of sections and lists."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return levels > 0 and all(_within(each, levels - 1) for each in inner)


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
    given = shown(error["input"])
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
            return f"{where} is {given}; add its kind"
        case _:
            return f"{where} is {given}; {wanted(error)}"


def shown(value: Any) -> str:
    """A value as messages quote it."""
    return json.dumps(value, default=str)[:80]


def wanted(error: Any) -> str:
    """What to give instead, for one error of pydantic's."""
    kind, told = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        return f"give a number {_BOUNDS[kind]} {next(iter(told.values()))}"
    match kind.partition("_")[0]:
        case "int":
            return "give a whole number"
        case "float" | "finite":
            return "give a finite number"
        case "bool":
            return "give true or false"
        case "string" | "path" | "invalid":  # invalid_key
            return "give text"
        case "tuple" | "list":
            return "give a list"
        case "dict" | "model":
            return "give keys and values"
        case "literal":
            return f"give {told['expected']}"
        case "too":
            return "give one or more"
    message = str(error["msg"])
    return message[0].lower() + message[1:]


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
