"""The symbols of the page. Each is explained where it first appears, which depends on what a run has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MEANINGS = {
    "p-value": "how often chance alone would bring a difference at least this large, if both models were equally good",
    "D_meta": "the annotated corpus that teaches the model to criticise and refine",
    "beta": "the weight of answering directly, beside criticising and refining",
    "p": "the prompt",
    "r": "the first response",
    "f": "the feedback on the first response",
    "r^": "the refined response",
    "v": "the verdict on the refined response, which decides whether a row is kept",
    "BLEU": "how much two texts have in common, from 0 to 1",
}
_SYMBOL = re.compile(
    rf"(?<![\w^-])(?:{'|'.join(map(re.escape, sorted(MEANINGS, key=len, reverse=True)))})(?![\w^]|-\w)"
)


@dataclass(slots=True)
class Symbols:
    """The symbols of one page that wait for their explanation."""

    waiting: dict[str, str] = field(default_factory=lambda: dict(MEANINGS))

    def explain(self, text: str) -> list[tuple[str, str]]:
        """The symbols in `text` that were not explained before, each with its meaning."""
        found = {*_SYMBOL.findall(text)}
        return [(symbol, self.waiting.pop(symbol)) for symbol in MEANINGS if symbol in found & self.waiting.keys()]
