"""Your own parts: `package.module:Name`, from the working directory or an installed package.

See docs/extending.md. A part is imported, created with its `options`, and checked against its
protocol. The import runs your module. The working directory is added to sys.path only if a
configuration names a part. It is added at the end, so that your file never replaces a library.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from selfevo.config.base import OwnPart
from selfevo.config.task import TaskConfig
from selfevo.errors import ConfigError, SelfevoError
from selfevo.rundir.atomic_files import hash_file

_READ: dict[str, tuple[ModuleType, str]] = {}  # modules of your own parts, and the SHA-256 of the imported file


def make_part(name: str, options: Mapping[str, Any], protocol: type, needed_as: str, **given: Any) -> Any:
    """The part `name`, created with the arguments `options` and `given`.

    A class or a function is called with them. If the protocol is a function itself, a function is
    not called; it gets them as extra arguments of each later call. `needed_as` says what the part
    must be, such as "a task".

    Raises ConfigError if the part is not found, does not take these arguments, or does not follow
    the protocol.
    """
    part = find_part(name)
    if not callable(part):
        raise ConfigError(f"{name} is {type(part).__name__}, so it cannot be {needed_as}; name a class or a function")
    arguments = {**options, **given}
    itself = "__call__" in _members(protocol) and not isinstance(part, type)
    _refuse_others(name, part, arguments, may_lack=itself)
    made = partial(part, **arguments) if itself else _called(name, part, arguments)
    _check(name, made, protocol, needed_as)
    return made


def find_part(name: str) -> Any:
    """The object `package.module:Name`. Raises ConfigError if it is not found or cannot be imported."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and not module.startswith("selfevo."):
        sys.path.append(here)
    try:
        found = _imported(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{name}: there is no module {error.name} in the working directory, {here}, and none is installed; "
                "correct the name, or start from another folder"
            ) from None
        raise ConfigError(f"{name}: {_said(error)}") from error
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"{name}: {_said(error)}") from error
    if not hasattr(found, attribute):
        raise ConfigError(f"{name}: {found.__file__ or module} has no {attribute}; correct the name")
    return getattr(found, attribute)


def _imported(module: str) -> ModuleType:
    """The module, imported again if its file was changed since, for example from a notebook."""
    importlib.invalidate_caches()
    found = importlib.import_module(module)
    if found.__file__ and not module.startswith("selfevo."):
        now = hash_file(Path(found.__file__))
        if _READ.setdefault(module, (found, now)) != (found, now):
            found = importlib.reload(found)
            _READ[module] = found, now
    return found


def part_files(section: Any) -> dict[str, Path]:
    """The source files of your own parts in a configuration or a section, by the name of the part."""
    return {name: _source(name) for name in sorted(set(_names(section)))}


def _names(section: Any) -> Iterator[str]:
    match section:
        case OwnPart():
            yield section.kind
        case TaskConfig() if section.part is not None:
            yield section.part
        case BaseModel():
            for field in type(section).model_fields:
                yield from _names(getattr(section, field))
        case list() | tuple():
            for each in section:
                yield from _names(each)


def _source(name: str) -> Path:
    part = find_part(name)
    try:
        file = inspect.getsourcefile(part)
    except TypeError:  # an instance or a compiled object
        file = sys.modules[name.partition(":")[0]].__file__
    if file is None:
        raise ConfigError(
            f"{name} has no source file, so a resume could not tell whether it was changed; define it in a .py file"
        )
    return Path(file)


def _refuse_others(name: str, part: Any, arguments: Mapping[str, Any], may_lack: bool) -> None:
    """Raises ConfigError if the part does not take these arguments."""
    try:
        signature = inspect.signature(part)
    except ValueError:
        return  # a compiled object may have no signature
    try:
        (signature.bind_partial if may_lack else signature.bind)(**arguments)
    except TypeError as error:
        raise ConfigError(f"{name} does not take these options: {error}; it takes {signature}") from None


def _called(name: str, part: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return part(**arguments)
    except SelfevoError:
        raise
    except Exception as error:  # the user's class may raise anything
        raise ConfigError(f"{name} could not be created with {dict(arguments)}: {_said(error)}") from error


def _check(name: str, made: Any, protocol: type, needed_as: str) -> None:
    """Raises ConfigError if `made` does not follow the protocol."""
    members = _members(protocol)
    asked = ", ".join(_shown(member, each) for member, each in members.items())
    for member, each in members.items():
        shown = _shown(member, each)
        if not hasattr(made, member) or (callable(each) and not callable(getattr(made, member))):
            raise ConfigError(
                f"{name} has no {'method' if callable(each) else 'attribute'} {shown}; {needed_as} needs {asked}"
            )
        method = made if member == "__call__" else getattr(made, member)
        if callable(each) and (own := _differing(method, each)):
            raise ConfigError(f"{name}: {member} takes {own}; {needed_as} needs {shown}")


def _members(protocol: type) -> dict[str, Any]:
    """The methods and properties of a protocol, inherited ones included."""
    found: dict[str, Any] = {}
    for each in reversed(protocol.__mro__):
        if getattr(each, "_is_protocol", False):
            members = vars(each).items()
            found |= {k: v for k, v in members if k == "__call__" or (not k.startswith("_") and _is_member(v))}
    return found


def _is_member(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, property)


def _parameters(method: Any) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(method).parameters.values() if each.name != "self"]


def _differing(method: Any, asked: Any) -> str:
    """The arguments of `method`, if it cannot be called like `asked`; else ""."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return ""
    given = [each for each in _parameters(asked) if each.default is each.empty]
    positional = [each for each in given if each.kind is not each.KEYWORD_ONLY]
    try:
        signature.bind(*positional, **{each.name: each for each in given if each not in positional})
    except TypeError:
        return f"({', '.join(signature.parameters)})"
    return ""


def _shown(name: str, member: Any) -> str:
    if not callable(member):
        return name
    return f"{name}({', '.join(each.name for each in _parameters(member))})"


def _said(error: Exception) -> str:
    """An error of the user's code in one line, with its place."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{' '.join(f'{type(error).__name__}: {error}'.split())} ({Path(last.filename).name}, line {last.lineno})"
