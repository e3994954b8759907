"""Whether a prompt is known to an evaluation set: the same text, one within the other, or many words in a row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

GRAM = 13  # words that two texts may not share in a row (Brown et al. 2020, appendix C)


class Decontaminator:
    """Finds texts that an evaluation set knows: the same text, one within the other, or GRAM words in a row.

    Case, punctuation and spacing do not matter. A paraphrase passes: no string comparison sees it.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: set[str] = set()
        self._whole: set[str] = set()
        for text in texts:
            words = normal(text)
            self._whole.add(" ".join(words))
            self._grams.update(_grams(words))

    def reason(self, text: str) -> str | None:
        words = normal(text)
        joined = f" {' '.join(words)} "
        if joined.strip() in self._whole:
            return "in an evaluation set"
        if any(gram in self._grams for gram in _grams(words)):
            return f"shares {GRAM} words in a row with an evaluation set"
        # Problems shorter than a gram have none: look for them whole.
        if any(len(whole) > 20 and f" {whole} " in joined for whole in self._short()):
            return "contains a prompt of an evaluation set"
        return None

    def _short(self) -> Iterator[str]:
        return (whole for whole in self._whole if whole.count(" ") < GRAM - 1)


def normal(text: str) -> list[str]:
    """The words of a text, whatever its case, punctuation and Unicode form."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def _grams(words: Sequence[str]) -> Iterator[str]:
    return (" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
