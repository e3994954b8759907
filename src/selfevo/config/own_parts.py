"""Parts of your own: `package.module:Name`, from the working directory or an installed package (docs/extending.md).

A part is imported, made with its `options`, and checked against the protocol that it has to follow. Importing runs the
module, as running a script of yours would. Only a configuration that names a part puts the working directory on
sys.path, behind all that is installed: a file of yours never takes the place of a library.
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
from selfevo.config.sections import TaskConfig
from selfevo.errors import ConfigError, SelfevoError
from selfevo.rundir.atomic_files import hash_file

_READ: dict[str, tuple[ModuleType, str]] = {}  # modules of own parts, and the SHA-256 of what was imported


def make_part(name: str, options: Mapping[str, Any], protocol: type, needed_as: str, **given: Any) -> Any:
    """The part `name`, made with `options` and with what it is `given`.

    A class or a function is called with them. Where the protocol is itself a function, a function stays one, with them
    as further arguments. `needed_as` says what it has to be, such as "a task".

    Raises ConfigError where there is none of that name, where it does not take these arguments, or where it lacks
    what the protocol asks for.
    """
    part = find_part(name)
    if not callable(part):
        raise ConfigError(f"{name} is neither a class nor a function, so it cannot be {needed_as}")
    arguments = {**options, **given}
    itself = "__call__" in _members(protocol) and not isinstance(part, type)
    _refuse_others(name, part, arguments, may_lack=itself)
    made = partial(part, **arguments) if itself else _called(name, part, arguments)
    _check(name, made, protocol, needed_as)
    return made


def find_part(name: str) -> Any:
    """What `package.module:Name` names. Raises ConfigError where it is not found or its module cannot be imported."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and not module.startswith("selfevo."):
        sys.path.append(here)
    try:
        found = _imported(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{name}: there is no module {error.name}, neither in the working directory, {here}, nor installed"
            ) from None
        raise ConfigError(f"{name}: {_said(error)}") from error
    except Exception as error:  # whatever a module of the user's raises
        raise ConfigError(f"{name}: {_said(error)}") from error
    if not hasattr(found, attribute):
        raise ConfigError(f"{name}: {found.__file__ or module} has no {attribute}")
    return getattr(found, attribute)


def _imported(module: str) -> ModuleType:
    """The module as its file is now, which a notebook may have changed since it was imported."""
    importlib.invalidate_caches()
    found = importlib.import_module(module)
    if found.__file__ and not module.startswith("selfevo."):
        now = hash_file(Path(found.__file__))
        if _READ.setdefault(module, (found, now)) != (found, now):
            found = importlib.reload(found)
            _READ[module] = found, now
    return found


def part_files(section: Any) -> dict[str, Path]:
    """The source file of every part of your own that a configuration, or a section of one, names."""
    return {name: _source(name) for name in sorted(set(_names(section)))}


def _names(section: Any) -> Iterator[str]:
    match section:
        case OwnPart():
            yield section.kind
        case TaskConfig() if section.own:
            yield section.name
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
    except TypeError:  # an instance, or what is compiled
        file = sys.modules[name.partition(":")[0]].__file__
    if file is None:
        raise ConfigError(f"{name} has no source file, so that a resume could not tell whether it was changed")
    return Path(file)


def _refuse_others(name: str, part: Any, arguments: Mapping[str, Any], may_lack: bool) -> None:
    """Raises ConfigError where the part does not take these arguments."""
    try:
        signature = inspect.signature(part)
    except ValueError:
        return  # what is compiled may say nothing of its arguments
    try:
        (signature.bind_partial if may_lack else signature.bind)(**arguments)
    except TypeError as error:
        raise ConfigError(f"{name} does not take these options: {error}; it takes {signature}") from None


def _called(name: str, part: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return part(**arguments)
    except SelfevoError:
        raise
    except Exception as error:  # whatever a class of the user's raises
        raise ConfigError(f"{name} could not be made with {dict(arguments)}: {_said(error)}") from error


def _check(name: str, made: Any, protocol: type, needed_as: str) -> None:
    """Raises ConfigError with what `made` lacks of the protocol."""
    members = _members(protocol)
    asked = ", ".join(_shown(member, each) for member, each in members.items())
    for member, each in members.items():
        shown = _shown(member, each)
        if not hasattr(made, member) or (callable(each) and not callable(getattr(made, member))):
            raise ConfigError(
                f"{name} has no {'method' if callable(each) else 'attribute'} {shown}; {needed_as} needs {asked}"
            )
        method = made if member == "__call__" else getattr(made, member)  # a function says what it takes itself
        if callable(each) and (own := _differing(method, each)):
            raise ConfigError(f"{name}: {member} takes {own}; {needed_as} needs {shown}")


def _members(protocol: type) -> dict[str, Any]:
    """Methods and properties of a protocol, those that it inherits included."""
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
    """The arguments of `method`, where it cannot be called as `asked` is; else nothing."""
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
    """An error of somebody else's code in one line, with the place it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{' '.join(f'{type(error).__name__}: {error}'.split())} ({Path(last.filename).name}, line {last.lineno})"
