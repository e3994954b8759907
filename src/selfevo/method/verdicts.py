"""The verdict of a feedback, and the grammar that reads it, in the words of any language.

A verdict is the last line of a feedback: a label, a colon, one of two words. Whatever is not quite that is unknown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache

from selfevo.method.normal_form import without_unseen
from selfevo.method.thinking import spoken


class Verdict(Enum):
    """What a feedback concludes. UNKNOWN is neither yes nor no: such a row is never kept."""

    QUALIFIED = "qualified"
    NOT_QUALIFIED = "not qualified"
    UNKNOWN = "unknown"


class Grammar:
    """Reads verdicts with a label, such as "判定", and the words for yes and no, such as "合格" and "不合格".

    Normal form of a line: white space counts as one space, full-width punctuation as ASCII, what cannot be seen at its
    ends as nothing, and composed and decomposed letters are the same; the mark of a list or a heading goes, and so do
    pairs of `*`, `_` and "`". A think block that opens the feedback goes, and so do empty lines, fences and rules at
    its end.

    Grammar: the last line is label, colon and word (case and one closing "." or "!" do not matter), and no other line
    announces another verdict, or one that cannot be read. Anything else, text after it included, is UNKNOWN. To be an
    announcement a line need only look like one: characters that cannot be seen, that break lines or that look like
    other letters do not hide it, nor does a word before or behind the label.
    """

    def __init__(self, label: str, qualified: str, not_qualified: str) -> None:
        words = {qualified: Verdict.QUALIFIED, not_qualified: Verdict.NOT_QUALIFIED}
        self._is_ascii = "".join((label, *words)).isascii()
        self._words = {_folded(word): verdict for word, verdict in words.items()}
        self._shown = {plain(word): verdict for word, verdict in words.items()}
        gap = " ?" if self._is_ascii else f"[ {_DIRECTION}]*"
        self._verdict = re.compile(
            f"{re.escape(label)}{gap}:{gap}({_either(map(re.escape, words))})[.!]?",
            re.IGNORECASE | (re.ASCII if self._is_ascii else re.NOFLAG),
        )
        name = _apart(_bare(label))
        named = _either(f"(?P<{verdict.name}>{_apart(_bare(word))})" for word, verdict in words.items())
        self._mention = re.compile(named)
        self._shape = re.compile(
            rf"{_JUNK}(?:[0-9]+[\W_]+)?(?P<before>{_BEFORE})??{name}(?P<between>[^{_SEPARATORS}]{{0,10}})"
            rf"[{_SEPARATORS}](?P<rest>.*)",
            re.DOTALL,
        )
        self._denied = re.compile(rf"{_JUNK}(?:{_BEFORE})??{name}.{{0,40}}?(?:{named})", re.DOTALL)

    def parse(self, feedback: str) -> Verdict:
        """The verdict that a feedback ends in."""
        feedback = spoken(feedback.replace("\r\n", "\n")).rstrip()
        lines = feedback.splitlines()
        while lines and _FRAME.fullmatch(_line(lines[-1])):
            lines.pop()
        verdict = self._conclusion(lines[-1]) if lines else Verdict.UNKNOWN
        seen = {*lines, *_unbroken(feedback)}
        announced = {said for line in seen if (said := self._announced(line)) is not None}
        if verdict is Verdict.QUALIFIED and any(map(self._denies, seen)):
            return Verdict.UNKNOWN
        return verdict if announced <= {verdict} else Verdict.UNKNOWN

    def without_verdict(self, feedback: str) -> str:
        """The words of a feedback, without the lines that give its verdict and without fences and rules at its end."""
        lines = [line for line in spoken(feedback).splitlines() if self._read(line) is Verdict.UNKNOWN]
        while lines and _FRAME.fullmatch(_line(lines[-1])):
            lines.pop()
        return "\n".join(lines)

    def _read(self, line: str) -> Verdict:
        match = self._verdict.fullmatch(self._normal(line))
        return self._words.get(_folded(match[1]), Verdict.UNKNOWN) if match else Verdict.UNKNOWN

    def _normal(self, line: str) -> str:
        return _line(line if self._is_ascii else unicodedata.normalize("NFC", line).translate(_OTHER_PUNCTUATION))

    def _conclusion(self, line: str) -> Verdict:
        """What the last line says."""
        return self._read(line)

    def _announced(self, line: str) -> Verdict | None:
        """What a line says that looks like a verdict; None if it does not.

        With a word before or behind the label it may be prose, so it has to be short, or to name a verdict.
        """
        match = self._shape.match(_bare(line))
        if match is None:
            return None
        if not match["before"] and not re.search(r"[^\W_]", match["between"]):
            return self._read(line)
        if len(match["rest"]) > _SHORT and not self._mention.search(match["rest"]):
            return None
        return self._shown.get(plain(match["rest"]), Verdict.UNKNOWN)

    def _denies(self, line: str) -> bool:
        """Whether a line says in other words that the verdict is no."""
        match = self._denied.match(_bare(line))
        return match is not None and match[Verdict.NOT_QUALIFIED.name] is not None


class English(Grammar):
    """The grammar of "Verdict: qualified" and "Verdict: not qualified".

    "Final verdict" and "Overall verdict" will do. A line about "the verdict" or "my verdict" is talk, which ends no
    feedback, and counts only where it says which verdict.
    """

    def __init__(self) -> None:
        super().__init__("Verdict", "qualified", "not qualified")
        label = "(?:(?:the|my) )?(?:(?:final|overall) )?verdict"
        self._verdict = re.compile(rf"{label} ?: ?(not qualified|qualified)[.!]?", re.IGNORECASE | re.ASCII)
        self._shape = re.compile(
            r"(?:[^\w>\"'“”‘’«»]|_)*(?:[0-9]+[\W_]+)?(?P<talk>(?:the|my)[\W_]+)?(?:(?:final|overall)[\W_]+)?verdict"
            r"[\W_]*?(?:[:=|\u2010-\u2015-]|is\b)"
        )
        self._denied = re.compile(rf"(?:[^\w>\"'“”‘’«»]|_)*{label}\b.{{0,40}}\bnot\W+qualified\W*")

    def _conclusion(self, line: str) -> Verdict:
        shape = self._shape.match(_bare(line))
        return Verdict.UNKNOWN if shape is not None and shape["talk"] is not None else self._read(line)

    def _announced(self, line: str) -> Verdict | None:
        shape, said = self._shape.match(_bare(line)), self._read(line)
        if shape is None or (shape["talk"] is not None and said is Verdict.UNKNOWN):
            return None
        return said

    def _denies(self, line: str) -> bool:
        """Such as "My verdict is not qualified."."""
        return self._denied.fullmatch(_bare(line)) is not None


@cache
def grammar(label: str, qualified: str, not_qualified: str) -> Grammar:
    if (label, qualified, not_qualified) == ("Verdict", "qualified", "not qualified"):
        return English()
    return Grammar(label, qualified, not_qualified)


_FRAME = re.compile(r"(?:`{3,}|~{3,}|[-*_=]{3,})?")
_BREAKS = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_MARK = re.compile(r"\A(?:#{1,6} |[-*+\u2022\u2023] |[0-9]{1,3}[.)] )+")  # of a heading or a list
_EMPHASIS = re.compile(r"(\*{1,3}|_{1,3}|`{1,3})(?=[^\s*_`])([^*_`]+)(?<=\S)\1")
_PUNCTUATION = str.maketrans("：！。．", ":!..")
_OTHER_PUNCTUATION = str.maketrans("﹕︓｡۔।։", "::....")
_DIRECTION = "\u200e\u200f\u061c"  # marks that right-to-left text has beside a colon
_SEPARATORS = r":=|\u2010-\u2015-"
_QUOTES = r">\"'“”‘’«»„‚‹›「『"
# What may stand before the label of an announcement: anything but the marks of a quotation, then a few words.
_JUNK = rf"(?:[^\w{_QUOTES}]|_)*+"
_BEFORE = rf"[^{_SEPARATORS}{_QUOTES}]{{1,16}}"
_SHORT = 30
_LOOKALIKES = str.maketrans("аɑαеёεᴇіıίιɪοоσᴏсϲᴄԁᴅԛѵνᴠтτᴛгʀոɴ", "aaaeeeeiiiiioooocccddqvvvtttrrnn")
# Scripts whose words follow each other without a space, or carry others at their ends.
_JOINED = frozenset(
    "ARABIC BOPOMOFO CJK HANGUL HEBREW HIRAGANA KATAKANA KHMER LAO MYANMAR THAI YI".split()  # first words of names
)


def _either(patterns: Iterable[str]) -> str:
    """The longer one first: one word may begin the other."""
    return "|".join(sorted(patterns, key=len, reverse=True))


def _apart(word: str) -> str:
    """A pattern for `word` that does not find it within another word."""
    word = word.strip()
    first, last = (unicodedata.name(character, "").split(" ")[0] for character in (word[0], word[-1]))
    pattern = r"[\W_]*".join(map(re.escape, word.split()))
    return ("" if first in _JOINED else r"(?<![^\W_])") + pattern + ("" if last in _JOINED else r"(?![^\W_])")


def plain(text: str) -> str:
    """The words of a text, as they show at a glance."""
    return re.sub(r"[\W_]+", " ", _bare(text)).strip()


def _folded(word: str) -> str:
    return " ".join(word.casefold().split())


def _line(line: str) -> str:
    """The normal form of a line."""
    line = " ".join(_trimmed(line).translate(_PUNCTUATION).split())
    for _ in range(2):
        line = _MARK.sub("", _EMPHASIS.sub(r"\2", line))
    return line


def _unbroken(feedback: str) -> Iterator[str]:
    """What lines would be if characters that some programs show as a line break, and others do not, were none."""
    for line in feedback.split("\n"):
        pieces = _BREAKS.split(line)
        if len(pieces) > 1:
            yield from ("".join(pieces[i : i + 40])[:200] for i in range(len(pieces)))


def _trimmed(line: str) -> str:
    """Without what cannot be seen at its ends. Within a line it stays, and makes a verdict unreadable; so do controls
    and marks that turn the direction of writing."""
    start, end = 0, len(line)
    while start < end and _is_blank(line[start]):
        start += 1
    while end > start and _is_blank(line[end - 1]):
        end -= 1
    return line[start:end]


def _is_blank(character: str) -> bool:
    turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    unseen = not without_unseen(character) and unicodedata.category(character) != "Cc"
    return character.isspace() or (unseen and not turns)


def _bare(line: str) -> str:
    """The letters that a line shows at a glance."""
    text = unicodedata.normalize("NFKD", without_unseen(line)).casefold()
    return "".join(c for c in text if not unicodedata.combining(c) and c != "\u0640").translate(_LOOKALIKES)
