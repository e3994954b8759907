"""Whether a prompt is known to an evaluation set: the same text, one within the other, or many words in a row.

Words are counted where a script puts spaces between them. Chinese, Japanese, Thai, Lao, Khmer and Burmese are counted
by characters, a letter with its marks as one.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import regex

from selfevo.method.normal_form import without_unseen
from selfevo.method.records import Prompt

GRAM = 13  # words that two texts may not share in a row (Brown et al. 2020, appendix C)
# The same in scripts without spaces: a word is some two signs of Chinese, and some four letters of Thai.
_SIGNS, _LETTERS = 24, 44
_SHARE, _LEAST = 0.7, 8  # of a problem in such a script, in a row, that makes it known, where that is less

_SIGN = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\u3005\u3006\u30fc"
_LETTER = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Tham}\p{Tai_Le}\p{New_Tai_Lue}"
UNSPACED = regex.compile(rf"[{_SIGN}]|[[{_LETTER}]&&\p{{L}}]\p{{M}}*", regex.V1)
_UNIT = regex.compile(rf"{UNSPACED.pattern}|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_SIGN}{_LETTER}]]+|\p{{N}}+", regex.V1)


class Decontaminator:
    """Finds texts that an evaluation set knows: the same text, one within the other, or GRAM words in a row.

    Case, punctuation, spacing and what cannot be seen do not matter. A paraphrase passes: no string comparison sees it.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: dict[tuple[int, str], set[str]] = {}
        self._whole: set[str] = set()
        self._short: list[str] = []  # problems without a gram are looked for whole
        for text in texts:
            units = normal(text)
            whole = " ".join(units)
            if whole in self._whole:
                continue
            self._whole.add(whole)
            size, name = _gram(units)
            if len(units) < size and len(whole) > 20:
                self._short.append(f" {whole} ")
            self._grams.setdefault((size, name), set()).update(_grams(units, size))

    def reason(self, text: str) -> str | None:
        units = normal(text)
        joined = f" {' '.join(units)} "
        if joined.strip() in self._whole:
            return "in an evaluation set"
        for (size, name), grams in self._grams.items():
            if any(gram in grams for gram in _grams(units, size)):
                return f"shares {size} {name} in a row with an evaluation set"
        if any(whole in joined for whole in self._short):
            return "contains a prompt of an evaluation set"
        return None


def as_text(prompt: Prompt) -> str:
    """What is compared of a prompt: all its turns. A system prompt is often the same for all, and says nothing."""
    return "\n".join((*prompt.history, prompt.prompt))


def normal(text: str) -> list[str]:
    """The units of a text, whatever its case, punctuation and Unicode form: words, or the characters of a script that
    puts no spaces between words."""
    return _UNIT.findall(unicodedata.normalize("NFKC", without_unseen(text)).casefold())


def is_unspaced(units: Sequence[str]) -> bool:
    """Whether most units of a text are characters of a script without spaces."""
    return 2 * sum(UNSPACED.fullmatch(unit) is not None for unit in units) > len(units)


def _gram(units: Sequence[str]) -> tuple[int, str]:
    """How many units in a row make a text with these known, and what they are."""
    if not is_unspaced(units):
        return GRAM, "words"
    signs = sum(regex.match(f"[{_SIGN}]", unit) is not None for unit in units)
    whole = _SIGNS if 2 * signs > len(units) else _LETTERS
    return min(whole, max(_LEAST, math.ceil(_SHARE * len(units)))), "characters"


def _grams(units: Sequence[str], size: int) -> Iterator[str]:
    return (" ".join(units[i : i + size]) for i in range(len(units) - size + 1))
