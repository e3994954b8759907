"""What an annotator writes: one JSON object, read from a reply that may hold more than it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Written:
    """What the annotator is asked for."""

    feedback: str
    verdict: Verdict
    refinement: str


def schema(wording: Wording) -> dict[str, Any]:
    """The JSON schema of what an annotator writes."""
    return {
        "type": "object",
        "properties": {
            "feedback": {"type": "string"},
            "verdict": {"type": "string", "enum": [wording.qualified, wording.not_qualified]},
            "refinement": {"type": "string"},
        },
        "required": ["feedback", "verdict", "refinement"],
        "additionalProperties": False,
    }


def read_written(text: str, wording: Wording = ENGLISH) -> Written | None:
    """The one object in a reply that holds what was asked for, with words or a fence around it.

    What was thought before it does not count. None where there is none, or several that differ.
    """
    text = text.strip()
    if not text.startswith("{"):
        text = _THOUGHT.sub("", text).lstrip()
    if _THINKS.match(text):  # to no end
        return None
    for source in (text, _COMMA.sub(r"\1", _BACKSLASH.sub(_doubled, text))):
        if found := set(_objects(source, wording)):
            return found.pop() if len(found) == 1 else None
    return None


def _objects(text: str, wording: Wording) -> Iterator[Written]:
    place = 0
    for _ in range(_TRIES):
        if (opening := _OPENING.search(text, place)) is None:
            return
        place = opening.start() + 1
        try:
            value, end = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        if (written := _written(value, wording)) is not None:
            yield written
            place = end


def _written(value: Mapping[str, Any], wording: Wording) -> Written | None:
    fields = {name.strip().casefold(): field for name, field in value.items()}
    feedback, refinement = (fields.get(name) or "" for name in ("feedback", "refinement"))
    if isinstance(feedback, list) and all(isinstance(line, str) for line in feedback):
        feedback = "\n".join(feedback)
    verdict = fields.get("verdict")
    if not (isinstance(feedback, str) and isinstance(refinement, str) and isinstance(verdict, str)):
        return None
    read = _read(verdict, wording)
    if read is Verdict.UNKNOWN:
        return None
    return Written(_as_meant(feedback), read, _as_meant(refinement))


def _read(verdict: str, wording: Wording) -> Verdict:
    """The verdict in a field of its own, where people write not_qualified as well."""
    said = _spaced(re.sub(f"^{re.escape(wording.verdict)}[:：]", "", verdict.strip()))
    words = {wording.qualified: Verdict.QUALIFIED, wording.not_qualified: Verdict.NOT_QUALIFIED}
    as_written = {_spaced(word).lower(): word for word in words}
    return wording.parse(f"{wording.verdict}: {as_written.get(said.lower(), said)}")


def _spaced(words: str) -> str:
    return re.sub(" +", " ", re.sub("[_-]", " ", words).strip(_MARKS))


def _as_meant(text: str) -> str:
    """LaTeX whose backslash was not doubled in JSON was read as a control character that no text has there."""
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair
    return _CONTROLS.sub(lambda match: "\\" + _LETTERS[match[0]], text)


def _without_doubt(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; none of what is said twice, and not the same."""
    value = dict(pairs)
    return value if all(value[name] == said for name, said in pairs) else {}


def _doubled(match: re.Match[str]) -> str:
    return match[0] if match[1] else 2 * match[0]


_TRIES = 200  # of a text that is full of braces
_MARKS = "*\"'`.!“”„「」『』。！ \t\n"  # around a verdict
_TAGS = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad)"
_THINKS = re.compile(rf"<{_TAGS}\b[^<>]*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>", re.IGNORECASE)
_THOUGHT = re.compile(
    rf".*(?:</{_TAGS}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final[^{{]{{,40}}?<\|message\|>)",
    re.DOTALL | re.IGNORECASE,
)
_OPENING = re.compile(r'\{\s*"')
_DECODER = json.JSONDecoder(  # with line breaks in strings; 42 as it is written
    strict=False, parse_int=str, parse_float=str, object_pairs_hook=_without_doubt
)
_COMMA = re.compile(r",(\s*[}\]])")
_BACKSLASH = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')  # without a group: it escapes nothing
_CONTROLS = re.compile(r"[\b\f]|\r(?!\n)|\t(?=imes\b|heta\b|ext\{|frac\{|au\b)|\n(?=eq\b|abla\b)")
_LETTERS = {"\b": "b", "\f": "f", "\r": "r", "\t": "t", "\n": "n"}
