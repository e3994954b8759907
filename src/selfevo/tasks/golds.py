"""The answers in a file of problems, and the normal form in which texts are compared with them."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

from selfevo.method.answer_extraction import DECLARATION, MAX_CHARACTERS, boxed
from selfevo.method.normal_form import plain_characters
from selfevo.method.thinking import without_thinking

_QUOTES = str.maketrans("“”„«»‘’‚", '"""""\'\'\'')
_PAIRS = ("***", "**", "*", "___", "__", "_", "```", "`", "$", '"', "'")
_IN_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SENTENCE_ENDS = re.compile(r"\.\s|</answer>")


def allowed(answer: Any) -> list[Any]:
    """The right answers in a cell: one, or a list of them. Raises ValueError if there is none, or of no usable type."""
    answers = list(answer) if isinstance(answer, list | tuple) else [answer]
    for each in answers:
        if (
            each is None
            or (isinstance(each, float) and math.isnan(each))
            or (isinstance(each, str) and not each.strip())
        ):
            raise ValueError("the answer is empty" if each is not None else "there is no answer")
        if not isinstance(each, str | int | float | Decimal | date):
            raise ValueError(f"the answer holds {type(each).__name__}; give text, a number, or a list of these")
    if not answers:
        raise ValueError("the list of answers is empty")
    return answers


def as_text(value: Any) -> str:
    """A text or a number as text: 3.0 is 3, and true and false are written as in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def stored(answer: Any) -> str:
    """A cell as data/evaluation.jsonl keeps it: text as it is, a list or an object as JSON, "" for nothing."""
    if answer is None:
        return ""
    if isinstance(answer, list | tuple | dict):
        return json.dumps(answer, ensure_ascii=False, default=str)
    return as_text(answer)


def normal(text: str, ignore_case: bool = False) -> str:
    """The form in which texts are compared: white space as one space, full-width characters as ASCII, no quotes or
    emphasis around the whole and no full stop at its end."""
    text = _IN_LATEX.sub(r"\1", unicodedata.normalize("NFC", plain_characters(text)).translate(_QUOTES))
    text = " ".join(text.split())
    text = _without_pairs(text)
    if len(text) > 1 and not text.endswith(".."):
        text = _without_pairs(text.removesuffix(".").rstrip())
    return text.casefold() if ignore_case else text


def _without_pairs(text: str) -> str:
    while True:
        for mark in _PAIRS:
            inner = text[len(mark) : -len(mark)]
            if len(text) > 2 * len(mark) and text == f"{mark}{inner}{mark}" and inner.strip() and mark[0] not in inner:
                text = inner.strip()
                break
        else:
            return text


def response_of(text: str) -> str:
    """What of a response is read: what follows its thinking, and of a long one the end."""
    return without_thinking(text)[-MAX_CHARACTERS:].strip()


def declared(text: str) -> Iterator[str]:
    """What a response declares as its answer, the last declaration first: what a box holds, else the rest of the line
    behind "The answer is", "Answer:", "####" and their like."""
    boxes = boxed(text)
    yield from reversed(boxes)
    if boxes:
        return
    for declaration in reversed(list(DECLARATION.finditer(text))):
        yield text[declaration.end() :].lstrip(" \t\n:").partition("\n")[0]


def readings(response: str) -> Iterator[str]:
    """The texts that may be the answer of a response: the whole, and what it declares last, with or without what
    follows its first sentence."""
    yield without_thinking(response).strip()
    for line in declared(response_of(response)):
        # Emphasis may begin before the declaration, or end behind it: "**Answer:** Paris".
        for piece in (line, line.strip(" *_`")):
            yield piece
            yield _SENTENCE_ENDS.split(piece, maxsplit=1)[0]
        return
