"""The words that the model is asked with, and the grammar of the verdict. Training and inference both come here.

A trajectory is ONE conversation that grows; turns alternate user, assistant, user, ...:

    user p   assistant r   user CRITIQUE   assistant f   user REFINE   assistant r^
    user p   assistant r^  user CRITIQUE   assistant v

Earlier turns of the prompt come first, and its system prompt is the same all along.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum

from selfevo.method.normal_form import without_unseen
from selfevo.method.records import Prompt, Turns
from selfevo.method.thinking import spoken

CRITIQUE = "Check this answer: name each error, then give your verdict."
REFINE = "Write the improved answer."


def respond(prompt: Prompt) -> Turns:
    return (*prompt.history, prompt.prompt)


def critique(prompt: Prompt, response: str) -> Turns:
    return (*respond(prompt), response, CRITIQUE)


def refine(prompt: Prompt, response: str, feedback: str) -> Turns:
    return (*critique(prompt, response), feedback, REFINE)


class Verdict(Enum):
    """What a feedback concludes. UNKNOWN is neither yes nor no: such a row is never kept."""

    QUALIFIED = "qualified"
    NOT_QUALIFIED = "not qualified"
    UNKNOWN = "unknown"


def verdict_line(verdict: Verdict) -> str:
    """The last line of a feedback, as annotators write it and the model learns it."""
    return f"Verdict: {verdict.value}"


def parse_verdict(feedback: str) -> Verdict:
    """The verdict a feedback ends in.

    Normal form of a line: white space counts as one space, full-width punctuation as ASCII, what cannot be seen at its
    ends as nothing; the mark of a list or a heading goes, and so do pairs of `*`, `_` and "`". A think block that opens
    the feedback goes, and so do empty lines, fences and rules at its end.

    Grammar: the last line reads "Verdict: qualified" or "Verdict: not qualified" ("Final verdict" and "Overall verdict"
    will do; case and one closing "." or "!" do not matter), and no other line announces another verdict, or one that
    cannot be read. Anything else, text after it included, is UNKNOWN. To be an announcement a line need only look like
    one: characters that cannot be seen, that break lines or that look like other letters do not hide it.
    """
    feedback = spoken(feedback.replace("\r\n", "\n")).rstrip()
    lines = feedback.splitlines()
    while lines and _FRAME.fullmatch(_line(lines[-1])):
        lines.pop()
    verdict = _read(lines[-1]) if lines and not _talks(lines[-1]) else Verdict.UNKNOWN
    seen = {*lines, *_unbroken(feedback)}
    announced = {_read(line) for line in seen if _announces(line)}
    if verdict is Verdict.QUALIFIED and any(map(_denies, seen)):
        return Verdict.UNKNOWN
    return verdict if announced <= {verdict} else Verdict.UNKNOWN


def without_verdict(feedback: str) -> str:
    """The words of a feedback, without the lines that give its verdict and without fences and rules at its end."""
    lines = [line for line in spoken(feedback).splitlines() if _read(line) is Verdict.UNKNOWN]
    while lines and _FRAME.fullmatch(_line(lines[-1])):
        lines.pop()
    return "\n".join(lines)


_VERDICTS = {v.value: v for v in (Verdict.QUALIFIED, Verdict.NOT_QUALIFIED)}
_LABEL = "(?:(?:the|my) )?(?:(?:final|overall) )?verdict"
_VERDICT = re.compile(rf"{_LABEL} ?: ?(not qualified|qualified)[.!]?", re.IGNORECASE | re.ASCII)
_FRAME = re.compile(r"(?:`{3,}|~{3,}|[-*_=]{3,})?")
_BREAKS = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_MARK = re.compile(r"\A(?:#{1,6} |[-*+\u2022\u2023] |[0-9]{1,3}[.)] )+")  # of a heading or a list
_EMPHASIS = re.compile(r"(\*{1,3}|_{1,3}|`{1,3})(?=[^\s*_`])([^*_`]+)(?<=\S)\1")
_PUNCTUATION = str.maketrans("：！。．", ":!..")
# How a line looks that announces a verdict, whatever marks stand before it but those of a quotation.
_ANNOUNCED = re.compile(
    r"(?:[^\w>\"'“”‘’«»]|_)*(?:[0-9]+[\W_]+)?(?P<talk>(?:the|my)[\W_]+)?(?:(?:final|overall)[\W_]+)?verdict[\W_]*?"
    r"(?:[:=|\u2010-\u2015-]|is\b)"
)
_DENIED = re.compile(rf"(?:[^\w>\"'“”‘’«»]|_)*{_LABEL}\b.{{0,40}}\bnot\W+qualified\W*")
_LOOKALIKES = str.maketrans("аɑαеёεᴇіıίιɪοоσᴏсϲᴄԁᴅԛѵνᴠтτᴛгʀոɴ", "aaaeeeeiiiiioooocccddqvvvtttrrnn")


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


def _read(line: str) -> Verdict:
    match = _VERDICT.fullmatch(_line(line))
    return _VERDICTS[match[1].lower()] if match else Verdict.UNKNOWN


def _bare(line: str) -> str:
    """The letters that a line shows at a glance."""
    text = unicodedata.normalize("NFKD", without_unseen(line)).casefold()
    return "".join(c for c in text if not unicodedata.combining(c)).translate(_LOOKALIKES)


def _shape(line: str) -> re.Match[str] | None:
    return _ANNOUNCED.match(_bare(line))


def _denies(line: str) -> bool:
    """Whether a line says in other words that the verdict is no: "My verdict is not qualified." """
    return _DENIED.fullmatch(_bare(line)) is not None


def _talks(line: str) -> bool:
    """Whether a line speaks of "the verdict": talk about verdicts, which ends no feedback."""
    shape = _shape(line)
    return shape is not None and shape["talk"] is not None


def _announces(line: str) -> bool:
    """Talk counts only where it says which verdict."""
    return _shape(line) is not None and (not _talks(line) or _read(line) is not Verdict.UNKNOWN)
