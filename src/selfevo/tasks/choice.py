"""The rule for multiple choice: which letter a response chooses, and which one a file says is right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from pydantic import Field

from selfevo.config.base import Strict
from selfevo.method.normal_form import plain_characters
from selfevo.method.records import Prompt
from selfevo.tasks.golds import allowed, as_text, declared, normal, response_of, stored
from selfevo.tasks.rules import Gold

_UNKNOWN = ascii_uppercase[:10]  # the letters that count where the choices are not known
_LISTED = re.compile(r"^[^\S\n]*[(\[]?([A-Za-z])[)\].:][^\S\n]+(\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"\(([A-Z])\)\s*([^()\n]+?)\s*(?=\([A-Z]\)|$)", re.MULTILINE)
_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")
_MARKED = re.compile(r"[(\[]?([A-Za-z])[)\].:]\s+(.+)")
_DECISION = re.compile(
    r"\b(?:correct|right|best|final)\s+(?:option|choice|one)\s*(?:is\b|:)|\b(?:option|choice)\s*(?:is\b|:)"
    r"|\b(?:I|we)\s+(?:would\s+|will\s+)?(?:choose|pick|select|go\s+with)\b"
    r"|(?:^|(?<=[.\n])\s*)(?=(?:(?:option|choice|answer)\s+)?[(\[]?[A-Z][)\]]?\s+is\s+(?:the\s+)?(?:correct|right|best)\b)",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:the\s+)?(?:(?:option|choice|letter|answer)\s+)?(?P<open>[(\[]?)\s*(?P<letter>[A-Za-z])(?![\w'])\s*[)\]]?(?P<after>.*)",
    re.IGNORECASE | re.DOTALL,
)
_ANOTHER = re.compile(r"\s*(?:(?:,|/|&|\+|\band\b)\s*[(\[]?[A-Z][)\]]?\s*(?:[.,;]|and\b|$)|,?\s*\bor\b)")
_GOES_ON = re.compile(r"\s*(?:$|[^\w\s]|(?:because|since|as|for|so|and|due|with|which|where|by|given|is)\b)")


class ChoiceRule(Strict):
    """The letter that the response chooses is the one in the file, which may be a letter, an index or a text."""

    first_index: int = Field(0, ge=0, le=1, description="the index of the first choice, for answers that are indices")

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        texts, labels = _choices(choices) if choices else ((), ())
        if texts and len(_shown(prompt.prompt)) != len(texts):
            listed = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))
            prompt = Prompt.of(f"{prompt.prompt}\n\n{listed}", system=prompt.system, history=prompt.history)
        texts = texts or _shown(prompt.prompt)
        letters = [self._letter(each, texts, labels) for each in allowed(answer)]
        first = letters[0]
        solution = f"{first}. {texts[ascii_uppercase.index(first)]}" if texts else first
        text = first if len(letters) == 1 else stored(letters)
        return Gold(prompt, frozenset(letters), text, solution, choices=texts)

    def is_right(self, gold: Gold, response: str) -> bool:
        return self.found(gold, response) in gold.answers

    def found(self, gold: Gold, response: str) -> str:
        letters = ascii_uppercase[: len(gold.choices)] or "".join(sorted({*_UNKNOWN, *gold.answers}))
        return read_choice(response, gold.choices, letters)

    def _letter(self, answer: Any, texts: Sequence[str], labels: Sequence[str]) -> str:
        """The letter that a gold answer means. Raises ValueError if it means none, or may mean several."""
        text, letters = as_text(answer), ascii_uppercase[: len(texts)] or ascii_uppercase
        meant: dict[str, str] = {}
        for letter, choice in zip(letters, texts, strict=False):
            if normal(choice) == normal(text):
                meant.setdefault(letter, "its text")
        if labels:
            if text in labels:
                meant[ascii_uppercase[labels.index(text)]] = "its label"
        elif re.fullmatch("[0-9]+", text) and 0 <= int(text) - self.first_index < len(letters):
            meant.setdefault(letters[int(text) - self.first_index], "its index")
        marked = _MARKED.fullmatch(text)
        by_letter = _LETTER.fullmatch(text) or (
            marked if marked and (not texts or any(normal(marked[2]) == normal(choice) for choice in texts)) else None
        )
        if by_letter and by_letter[1].upper() in letters and not (labels and text in labels):
            meant.setdefault(by_letter[1].upper(), "its letter")
        if len(meant) > 1:
            ways = " or ".join(f"{letter}, by {way}" for letter, way in sorted(meant.items()))
            raise ValueError(f"the answer {text[:60]!r} can be {ways}; give the letter")
        if not meant:
            among = f"of {len(texts)} choices" if texts else "of a choice"
            raise ValueError(
                f"the answer {text[:60]!r} is no letter, text or index (from {self.first_index}) {among}; correct it, "
                "or set task.options.first_index"
            )
        return next(iter(meant))


def read_choice(response: str, choices: Sequence[str], letters: str) -> str:
    """The letter that a response chooses; "" if it chooses none, or several.

    What it declares counts ("The answer is (B)", "Option B is correct", a box), the last declaration first; else a
    response that is the text of a choice, or its last line if that is a letter; else the one letter that begins a line.
    """
    text = plain_characters(response_of(response))
    for piece in (*declared(text), *_decided(text)):
        if (letter := _stated(piece, choices, letters)) is not None:
            return letter
    if (letter := _by_text(text, choices)) is not None:
        return letter
    lines = [line for each in text.splitlines() if (line := each.strip(" \t*_`#>-\"'"))]
    if lines and (alone := _LETTER.fullmatch(lines[-1])) and alone[1].upper() in letters:
        return alone[1].upper()
    begun = {match[1].upper() for line in lines if (match := _MARKED.match(line))} & set(letters)
    return begun.pop() if len(begun) == 1 else ""


def _decided(text: str) -> Iterator[str]:
    for decision in reversed(list(_DECISION.finditer(text))):
        yield text[decision.end() :].partition("\n")[0]


def _stated(piece: str, choices: Sequence[str], letters: str) -> str | None:
    """The letter that stands at the start of what is declared; "" for several letters, None if there is none."""
    piece = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", piece).strip(" \t:*_`\"'$")
    piece = re.sub(r"[*_`]+", "", piece)
    for reading in (piece, re.split(r"\.\s|[,;]", piece, maxsplit=1)[0]):
        if (letter := _by_text(reading, choices)) is not None:
            return letter
    match = _STATED.match(piece)
    if match is None or match["letter"].upper() not in letters:
        return None
    letter, after = match["letter"], match["after"]
    if letter.islower() and not match["open"] and after.strip(" .!*"):
        return None  # "the answer is a bit long"
    if letter in "AI" and not match["open"] and not _GOES_ON.match(after):
        return None  # "The answer is A good one"
    return "" if _ANOTHER.match(after) else letter.upper()


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice whose text this is."""
    same = [letter for letter, choice in zip(ascii_uppercase, choices, strict=False) if _same(choice, text)]
    return same[0] if len(same) == 1 else None


def _same(choice: str, text: str) -> bool:
    return normal(choice, ignore_case=True) == normal(text, ignore_case=True)


def _shown(prompt: str) -> tuple[str, ...]:
    """The choices that a prompt lists, as "A. ..." on lines or as "(A) ... (B) ..." in one; () if it lists none."""
    for pattern in (_LISTED, _INLINE):
        found = [(match[1].upper(), match[2].strip()) for match in pattern.finditer(prompt)]
        starts = [i for i, (letter, _) in enumerate(found) if letter == "A"]
        listed = found[starts[-1] :] if starts else []
        while listed and "".join(letter for letter, _ in listed) != ascii_uppercase[: len(listed)]:
            listed.pop()
        if len(listed) > 1:
            return tuple(text for _, text in listed)
    return ()


def _choices(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of the choices and their labels: a list, {"text": [...], "label": [...]}, or {"A": ..., "B": ...}."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("the choices are text; give a list of texts") from None
    labels: Any = ()
    if isinstance(value, Mapping):
        value = {name: each for name, each in value.items() if each is not None}
        if "text" in value:
            value, labels = value["text"], value.get("label", ())
        elif "".join(sorted(value)) == ascii_uppercase[: len(value)]:
            value = [value[letter] for letter in sorted(value)]
    if not isinstance(value, list | tuple) or not isinstance(labels, list | tuple):
        raise ValueError(f"the choices are {type(value).__name__}; give a list of texts")
    texts, labels = [as_text(each) for each in allowed(list(value))], tuple(map(as_text, labels))
    if not 2 <= len(texts) <= len(ascii_uppercase) or (labels and len(labels) != len(texts)):
        raise ValueError(
            f"there are {len(texts)} choices and {len(labels)} labels; give 2 to 26, each with a label or none"
        )
    return tuple(texts), labels
