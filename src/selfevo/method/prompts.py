"""The words that the model is asked with, and the grammar of the verdict. Training and inference both come here.

A trajectory is ONE conversation that grows; turns alternate user, assistant, user, ...:

    user p   assistant r   user CRITIQUE   assistant f   user REFINE   assistant r^
    user p   assistant r^  user CRITIQUE   assistant v

Earlier turns of the prompt come first, and its system prompt is the same all along.
"""

from __future__ import annotations

import unicodedata
from enum import Enum

from selfevo.method.records import Prompt, Turns

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


_VERDICT_LINES = {verdict_line(v).lower(): v for v in (Verdict.QUALIFIED, Verdict.NOT_QUALIFIED)}


def parse_verdict(feedback: str) -> Verdict:
    """The verdict a feedback ends in.

    Grammar: exactly one line of the feedback starts with "Verdict:", it is the last line, and it reads
    "Verdict: qualified" or "Verdict: not qualified" (case and one closing full stop do not matter). Anything else,
    a second verdict or text after it included, is UNKNOWN. Invisible characters do not hide a verdict from the count.
    """
    lines = [line.strip().lower() for line in feedback.strip().split("\n")]
    visible = ("".join(c for c in line if unicodedata.category(c) != "Cf").strip() for line in lines)
    if sum(line.startswith("verdict:") for line in visible) != 1:
        return Verdict.UNKNOWN
    return _VERDICT_LINES.get(lines[-1].removesuffix("."), Verdict.UNKNOWN)
