"""Rules by which a response is compared with the answer in a file: exact, regex and number.

A rule is a section of options, and it reads the golds of each row once. choice.py and function.py have two more.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

import regex
from pydantic import Field, field_validator

from selfevo.config.base import Strict
from selfevo.method.answer_extraction import declared_answer, extract_answer, read_number, write_number
from selfevo.method.records import Prompt
from selfevo.tasks.golds import allowed, as_text, normal, readings, response_of, stored

REGEX_SECONDS = 5.0  # a pattern that takes longer on one response finds nothing in it
_SPECIAL = set("\\.^$*+?{}[]|()")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gold:
    """What a row says is right. `prompt` is what is asked, `answers` are in the form that the rule compares.

    `text` is the answer as it is kept on disk, `solution` a right response ("" if the rule knows none).
    """

    prompt: Prompt
    answers: Any
    text: str
    solution: str = ""
    choices: tuple[str, ...] = field(default=(), kw_only=True)


class Rule(Protocol):
    """How responses are compared with answers."""

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        """The gold of a row, from the cells of its columns. Raises ValueError if they cannot be used."""
        ...

    def is_right(self, gold: Gold, response: str) -> bool: ...

    def found(self, gold: Gold, response: str) -> str:
        """The answer that is read in a response, for feedback; "" if there is none."""
        ...


class ExactRule(Strict):
    """The response, or what it declares as its answer, is one of the answers in the file."""

    ignore_case: bool = Field(False, description="upper and lower case are the same")

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        texts = [as_text(each) for each in allowed(answer)]
        return Gold(prompt, frozenset(normal(text, self.ignore_case) for text in texts), stored(answer), texts[0])

    def is_right(self, gold: Gold, response: str) -> bool:
        return any(normal(reading, self.ignore_case) in gold.answers for reading in readings(response))

    def found(self, gold: Gold, response: str) -> str:
        *_, last = readings(response)
        return last


class RegexRule(Strict):
    """With `pattern`, its last match in the response is the answer; without, the answers in the file are patterns."""

    pattern: str | None = Field(None, description="finds the answer in a response: its first group, or the whole match")
    ignore_case: bool = Field(False, description="upper and lower case are the same")

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            compiled(value)
        return value

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        texts = [as_text(each) for each in allowed(answer)]
        if self.pattern is None:
            for text in texts:
                compiled(text)
            plain = [text for text in texts if not set(text) & _SPECIAL]  # a pattern that is what it finds
            return Gold(prompt, tuple(texts), stored(answer), plain[0] if plain else "")
        return Gold(prompt, frozenset(normal(text, self.ignore_case) for text in texts), stored(answer), texts[0])

    def is_right(self, gold: Gold, response: str) -> bool:
        if self.pattern is None:
            return any(self._matches(pattern, response) for pattern in gold.answers)
        found = self.found(gold, response)
        return bool(found) and normal(found, self.ignore_case) in gold.answers

    def found(self, gold: Gold, response: str) -> str:
        if self.pattern is None:
            return response_of(response)
        matches = self._matches(self.pattern, response)
        if not matches:
            return ""
        groups = [group for group in matches[-1].groups() if group is not None]
        return str(groups[0] if groups else matches[-1].group()).strip()

    def _matches(self, pattern: str, response: str) -> list[Any]:
        flags = regex.IGNORECASE if self.ignore_case else 0
        try:
            return list(regex.compile(pattern, flags).finditer(response_of(response), timeout=REGEX_SECONDS))
        except TimeoutError:
            logger.warning(
                "the pattern %r took longer than %g s on a response, which counts as wrong", pattern, REGEX_SECONDS
            )
            return []


def compiled(pattern: str) -> None:
    """Raises ValueError for what is no pattern, or one that every response has."""
    try:
        found = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
    if found.search(""):
        raise ValueError(f"the pattern {pattern!r} matches the empty text, so it says nothing; give one that does not")


class NumberRule(Strict):
    """The number that is read in the response (method/answer_extraction.py) is one of those in the file."""

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        golds = [_number(as_text(each)) for each in allowed(answer)]
        first = as_text(allowed(answer)[0])
        text = stored([write_number(gold) for gold in golds]) if len(golds) > 1 else write_number(golds[0])
        return Gold(prompt, frozenset(golds), text, first)

    def is_right(self, gold: Gold, response: str) -> bool:
        return extract_answer(response) in gold.answers

    def found(self, gold: Gold, response: str) -> str:
        value = extract_answer(response)
        return "" if value is None else write_number(value)


def _number(text: str) -> Any:
    """The number in a gold answer. One with several must declare which, as GSM8K's do with "####"."""
    value = read_number(text)
    if value is None:
        value = declared_answer(text)
    if value is None and len(re.findall(r"\d[\d.,]*", text)) == 1:
        value = extract_answer(text)
    if value is None:
        raise ValueError(f"the answer {text[:60]!r} is not one number")
    return value
