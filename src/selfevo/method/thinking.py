"""Thinking: what a reasoning model writes before its answer, between <think> and </think>.

A text that opens with a thought which was closed has its answer behind it. Only such a block counts: tags elsewhere in
a text are words like any other, because an answer may speak of them.
"""

from __future__ import annotations

import re
from typing import Literal

import regex

# What becomes of the thinking in the texts of a run. keep: it is trained on, and nobody else sees it. show: it counts
# as a part of the answer, which the critic and the judge read.
Thinking = Literal["drop", "keep", "show"]

# The tags of reasoning models. Others, such as <reasoning>, a prompt may have asked for as a part of the answer.
_OPEN = r"<(?P<tag>think(?:ing)?)>|\[THINK\]|◁think▷"
_CLOSE = r"(?(tag)</(?P=tag)>|(?:\[/THINK\]|◁/think▷))"
_OPENED = re.compile(rf"\s*(?:{_OPEN})")
_BLOCK = re.compile(rf"\s*(?P<open>{_OPEN})(?P<thought>.*?)(?P<close>{_CLOSE})", re.DOTALL)
_TAIL = re.compile(rf"(?:{_OPEN})\s*\Z")
_THOUGHT = regex.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷", regex.IGNORECASE)
_CLOSED_AT_ONCE = re.compile(r"^[^\S\n]*</think>[^\S\n]*$", re.MULTILINE)


def spoken(text: str) -> str:
    """The text behind the thinking that it opens with; the text itself if it opens with none, or with one left open."""
    block = _BLOCK.match(text)
    return text[block.end() :].lstrip() if block else text


def heard(turns: tuple[str, ...]) -> tuple[str, ...]:
    """A conversation without what the assistant thought before its turns: whoever goes on with it does not see that."""
    return tuple(spoken(turn) if i % 2 else turn for i, turn in enumerate(turns))


def divided(text: str) -> tuple[str, str, str, str] | None:
    """Opening tag, thought, closing tag and the rest of a text that opens with closed thinking."""
    block = _BLOCK.match(text)
    return (block["open"], block["thought"], block["close"], text[block.end() :]) if block else None


def recorded(text: str, thinking: Thinking) -> str:
    """A model's text as a row holds it."""
    parts = divided(text) if thinking == "show" else None
    if parts:
        _, thought, _, answer = parts
        return f"{thought.strip()}\n\n{answer.strip()}".strip()
    return text if thinking == "keep" else spoken(text)


def is_open(text: str) -> bool:
    """Whether a text opens with thinking that it never closes."""
    return bool(_OPENED.match(text)) and not _BLOCK.match(text)


def without_thinking(text: str) -> str:
    """What follows the last closed thinking, wherever that stands: for texts of others, whose opening tag may be
    missing because it stood in their prompt. Thinking that was never closed is text like any other."""
    ends = [match.end() for match in _THOUGHT.finditer(text)]
    return text[ends[-1] :] if ends else text


def is_tag(text: str) -> bool:
    """Whether a token opens or closes thinking."""
    return bool(_OPENED.fullmatch(text) or _THOUGHT.fullmatch(text))


def opening(prompt: str) -> str:
    """The tag with which a prompt opens the thinking of the answer, as some templates do, with its line; else ""."""
    tail = _TAIL.search(prompt)
    return tail.group() if tail else ""


def closing(opening: str) -> str:
    """The tag that closes `opening`."""
    tag = opening.strip()
    return f"{tag[0]}/{tag[1:]}" if tag else ""


def reopened(text: str) -> str:
    """`text` with the opening tag that its prompt held, if a line closes thinking that no line opens."""
    found = _CLOSED_AT_ONCE.search(text)
    return f"<think>\n{text}" if found and "<think>" not in text[: found.start()] else text
