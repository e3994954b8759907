"""The rule of your own function, `function(prompt, answer, response) -> bool`, in a process of its own.

What a model writes can make it run for ever or ask for all the memory there is: that costs one answer, and is said. A
function that raises, or gives anything but True or False, ends the command: it says nothing about any answer.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from selfevo.config.base import Positive, Strict
from selfevo.config.own_parts import find_part
from selfevo.errors import CheckerError, ConfigError
from selfevo.method.records import Prompt
from selfevo.rundir.atomic_files import hash_file
from selfevo.tasks.golds import stored
from selfevo.tasks.rules import Gold
from selfevo.tasks.sandbox import Child, ChildError, RaisedError

ARGUMENTS = {"prompt", "answer", "response"}
logger = logging.getLogger(__name__)


class FunctionRule(Strict):
    """Your function decides. It gets the prompt, the answer as it stands in the file, and the response."""

    function: str = Field(description="module:function")
    seconds: float = Field(5.0, gt=0, description="processor time of one call")
    memory_mib: Positive = Field(4096, description="memory of its process")

    def check(self) -> None:
        """Raises ConfigError unless the function is there and takes the three arguments."""
        found = find_part(self.function)
        if not callable(found):
            raise ConfigError(f"{self.function} is {type(found).__name__}; name a function")
        if inspect.iscoroutinefunction(found):
            raise ConfigError(f"{self.function} is async; give a plain function")
        try:
            signature = inspect.signature(found)
            signature.bind(**dict.fromkeys(ARGUMENTS))
        except (TypeError, ValueError):
            taken = f"takes {signature}" if "signature" in locals() else "has no signature"
            raise ConfigError(
                f"{self.function} {taken}; a function that checks takes prompt, answer and response, by these names"
            ) from None

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        return Gold(prompt, answer, stored(answer), answer.strip() if isinstance(answer, str) else "")

    def found(self, gold: Gold, response: str) -> str:
        return response

    def try_out(self, gold: Gold) -> None:
        """Calls the function once. Raises CheckerError unless it says True or False."""
        response = gold.solution or "a response"
        try:
            self._called(gold, response)
        except ChildError as error:
            raise CheckerError(
                f"{self.function} gives no answer {_place(gold, response)} ({error}); correct it, or raise "
                "options.seconds or options.memory_mib"
            ) from None

    def is_right(self, gold: Gold, response: str) -> bool:
        try:
            return self._called(gold, response)
        except ChildError as error:
            place = _place(gold, response)
            logger.warning("%s gave no answer %s (%s), which counts as wrong", self.function, place, error)
            return False

    def _called(self, gold: Gold, response: str) -> bool:
        """Raises ChildError where time or memory is not enough, CheckerError for a mistake in the function."""
        module = self.function.partition(":")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        child = _child(module, hash_file(Path(file)) if file else "", self.seconds, self.memory_mib)
        place = _place(gold, response)
        try:
            result, shown = child.call(_ask, self.function, gold.prompt.prompt, gold.answers, response)
        except RaisedError as error:
            if str(error).startswith("MemoryError"):
                raise
            said = " ".join(str(error).split())
            raise CheckerError(f"{self.function} raised {said} {place}; correct it") from None
        if result is None:
            raise CheckerError(f"{self.function} returned {shown} {place}; it must return True or False")
        return bool(result)


def _place(gold: Gold, response: str) -> str:
    return f"on the response {response[:60]!r} to {gold.prompt.prompt[:60]!r}"


@cache
def _child(module: str, digest: str, seconds: float, megabytes: int) -> Child:
    """One process for each function and content of its file, however many tasks use it."""
    return Child(seconds, megabytes, imports=module)


def _ask(function: str, prompt: str, answer: Any, response: str) -> tuple[bool | None, str]:
    """The result if it is a truth value, and how it looks. Runs in the child."""
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(prompt=prompt, answer=answer, response=response)
    except SystemExit as error:
        raise RuntimeError(f"sys.exit({error})") from None
    if isinstance(result, bool) or type(result).__name__ in ("bool", "bool_"):  # numpy has its own
        return bool(result), ""
    return None, f"{type(result).__name__} {result!r}"[:80]
