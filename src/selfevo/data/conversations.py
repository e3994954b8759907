"""What a row of data asks: its values become a Prompt, or the reason why they cannot.

A prompt is a text, or a list of messages in a column that is named or one of `COLUMNS`. The last user turn is what is
answered; the system prompt and the turns before it come with it. What a Prompt cannot hold (tools, images, two turns of
one side in a row) is a reason, so that no row is asked other than it was written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from selfevo.method.normal_form import without_unseen
from selfevo.method.records import Prompt, Turns, check_fields

PROMPT = "prompt"  # the column of prompts, if no other is named
# The columns that may hold the prompt instead, if no other is named. The first that a row has counts.
COLUMNS = ("messages", "conversations", "conversation", "instruction", "turns")
_LISTS = ("messages", "conversations", "conversation")
_SYSTEM_COLUMNS = ("system", "system_prompt")
_MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")
_TOOL_COLUMNS = ("tools", "functions")

_SIDES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model"), "assistant"),
}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "tool_call", "tool_response", "observation")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a row was read as.

    `layout` names the form of the prompt, `columns` are those it was read from. `answer` is the assistant's turn at the
    end of a finished chat, `further` the number of user turns behind the first of `turns`, `beside` a column with
    another conversation than the prompt. These are left off.
    """

    prompt: Prompt
    layout: str
    columns: tuple[str, ...]
    answer: str = ""
    further: int = 0
    beside: str = ""

    @property
    def left_off(self) -> str:
        """What of the row is not asked; "" if nothing is left off."""
        if self.answer:
            return "the assistant's turn at the end"
        if self.further:
            return "the turns after the first"
        return f"column {self.beside!r} (it differs from {self.columns[0]!r})" if self.beside else ""


class _UnreadableError(Exception):
    """Why a row is no prompt."""


def read_prompt(values: Mapping[str, Any], column: str = PROMPT, system: str = "") -> Prompt | str:
    """The prompt in the values of a row, or why there is none. `system` is for a row without a system prompt."""
    read = read_conversation(values, column, system)
    return read if isinstance(read, str) else read.prompt


def read_conversation(values: Mapping[str, Any], column: str = PROMPT, system: str = "") -> Conversation | str:
    """As `read_prompt`, with what the row was read as."""
    try:
        return _read(values, column, system)
    except _UnreadableError as reason:
        return str(reason)


def has_prompts(columns: Collection[str], column: str = PROMPT) -> bool:
    """Whether rows with these columns can hold prompts."""
    return column in columns or (
        column == PROMPT and not {name.lower() for name in columns}.isdisjoint((PROMPT, *COLUMNS))
    )


def text_fault(text: str) -> str | None:
    """Why a text cannot be asked or learnt; None if it can."""
    if not text.strip():
        return "is empty"
    if "\0" in text:
        return "holds a NUL character"
    if not without_unseen(text).strip():
        return "holds nothing that can be seen"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half a surrogate pair, which cannot be written as UTF-8"
    return None


def said(value: Any) -> Any:
    """The text of a list with one assistant message, as in TRL's `completion`. Any other value stays as it is."""
    match value:
        case [{"role": "assistant", "content": str(text)}] | [{"from": "gpt", "value": str(text)}]:
            return text
    return value


def _read(values: Mapping[str, Any], column: str, default: str) -> Conversation:
    place = _place(values, column)
    if place is None:
        raise _UnreadableError(check_fields(values, (column,)))
    _check_columns(values)
    used, found = [place], _listed(values[place])
    system, answer, further = "", "", 0
    history: Turns = ()
    if isinstance(found, str):
        if column == PROMPT and place.lower() in _LISTS:
            raise _UnreadableError(f"column {place!r} holds text, not a list of messages")
        layout, asked = "text", _text(found, f"column {place!r}")
        if place.lower() == "instruction":
            layout, given = "Alpaca", _beside(values, ("input", "context"), used)  # Dolly has a context
            asked = f"{asked}\n\n{given}" if given else asked
        history = _history(values, used)
    elif _history(values, used):
        raise _UnreadableError(f"column {used[-1]!r} stands beside a list of messages; put its turns into the list")
    elif not isinstance(found, list | tuple):
        raise _UnreadableError(f"column {place!r} holds {type(found).__name__}, not text or a list of messages")
    elif not found:
        raise _UnreadableError(f"column {place!r} is empty")
    elif place.lower() == "turns" and not any(_is_message(turn) for turn in found):
        first = found[0].get("content") if isinstance(found[0], Mapping) else found[0]  # Arena-Hard has objects
        layout, asked, further = "turns", _text(first, "turn 1"), len(found) - 1
    else:
        layout = "ShareGPT" if isinstance(found[0], Mapping) and found[0].get("from") is not None else "messages"
        system, (*history_, asked), answer = _conversation(found)
        history = tuple(history_)
    if own := _beside(values, _SYSTEM_COLUMNS, used):
        if system and system != own:
            raise _UnreadableError(f"column {used[-1]!r} and the messages have two system prompts; keep one of them")
        system = own
    prompt = Prompt.of(asked, system=system or default, history=history)
    beside = _another(values, place, prompt) if column == PROMPT else ""  # else the user has chosen
    return Conversation(prompt, layout, tuple(used), answer, further, beside)


def _place(values: Mapping[str, Any], column: str) -> str | None:
    """The column of the prompt; None if the row has none."""
    if values.get(column) is not None:
        return column
    return _column(values, (PROMPT, *COLUMNS)) if column == PROMPT else None


def _column(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first column of `names`, in whatever case, that holds something."""
    there = {name.lower(): name for name, value in values.items() if value is not None}
    return next((there[name] for name in names if name in there), None)


def _beside(values: Mapping[str, Any], names: Sequence[str], used: list[str]) -> str:
    """The text of the one column of `names` that has any; "" if none has."""
    there = {name.lower(): name for name, value in values.items() if not _is_blank(value)}
    found = {there[name]: _text(values[there[name]], f"column {there[name]!r}") for name in names if name in there}
    used += list(found)[:1]
    if len(set(found.values())) > 1:
        raise _UnreadableError(f"columns {' and '.join(map(repr, found))} differ; keep one of them")
    return next(iter(found.values()), "")


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _another(values: Mapping[str, Any], place: str, prompt: Prompt) -> str:
    """The column of messages that hold another conversation than the prompt read from `place`; "" if there is none."""
    for name, value in values.items():
        if name == place or name.lower() not in _LISTS:
            continue
        try:
            found = _listed(value)
            if not isinstance(found, list | tuple) or not found:
                continue
            system, turns, _ = _conversation(found)
        except _UnreadableError:
            return name
        if system not in ("", prompt.system) or (*prompt.history, prompt.prompt) != tuple(turns):
            return name
    return ""


def _listed(value: Any) -> Any:
    """Messages written as JSON, as in a CSV file, or in columns of lists (of a data set), become a list of messages."""
    if isinstance(value, Mapping) and value and all(isinstance(each, list) for each in value.values()):
        if len({len(each) for each in value.values()}) > 1:
            raise _UnreadableError(f"the lists {', '.join(value)} of the messages differ in length")
        return [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if not (isinstance(value, str) and (text := value.strip()).startswith("[") and text.endswith("]")):
        return value
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith(("[{'role'", "[{'content'", "[{'from'", "[{'value'")):
            raise _UnreadableError("messages are written in Python's form; write them as JSON") from None
        return value
    return listed if listed and all(map(_is_message, listed)) else value


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _role(message: Mapping[str, Any]) -> Any:
    role = message.get("role")
    return message.get("from") if role is None else role


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _UnreadableError(f"{name} holds {type(value).__name__}, not text")
    if fault := text_fault(value):
        raise _UnreadableError(f"{name} {fault}")
    return value.strip()


def _conversation(messages: Sequence[Any]) -> tuple[str, list[str], str]:
    """The system prompt, the turns up to the last of the user, and the assistant's turn after it; "" for none."""
    read = [_message(message, f"message {i}") for i, message in enumerate(messages, start=1)]
    if read[-1] == ("assistant", ""):
        read.pop()  # a place that is left for the answer
    first = 1
    if read and read[0] == ("system", ""):
        del read[0]
        first = 2
    for i, (side, text) in enumerate(read, start=first):
        if not text:
            raise _UnreadableError(f"message {i} is empty")
        if side == "system" and i > first:
            raise _UnreadableError(f"message {i} is a system prompt; only the first message can be one")
    system = read[0][1] if read and read[0][0] == "system" else ""
    turns = read[1:] if system else read
    first += bool(system)
    if turns and turns[0][0] == "assistant":
        raise _UnreadableError(f"message {first} is the assistant's; a conversation begins with the user")
    for i, ((side, _), (other, _)) in enumerate(pairwise(turns), start=first):
        if side == other:
            raise _UnreadableError(f"messages {i} and {i + 1} are both the {side}'s; join them to one")
    if not turns:
        raise _UnreadableError("the messages hold no turn of the user")
    texts = [text for _, text in turns]
    return (system, texts[:-1], texts[-1]) if len(texts) % 2 == 0 else (system, texts, "")


def _message(message: Any, name: str) -> tuple[str, str]:
    """Who speaks in a message, and the text."""
    if not isinstance(message, Mapping):
        raise _UnreadableError(f"{name} is {type(message).__name__}, not an object with role and content")
    role, content = _role(message), message.get("content")
    content = message.get("value") if content is None else content
    if any(_holds(message.get(key)) for key in ("tool_calls", "function_call")) or role in _TOOL_ROLES:
        raise _UnreadableError(f"{name} is a tool's, or calls one, and tools are not asked here")
    side = _SIDES.get(role.lower()) if isinstance(role, str) else None
    if side is None:
        raise _UnreadableError(f"{name} has the role {role!r}; known are {', '.join(_SIDES)}")
    if isinstance(content, list | tuple):
        content = "\n".join(_part(part, name) for part in content)
    if content is None or (isinstance(content, str) and not content.strip()):
        return side, ""
    return side, _text(content, name)


def _part(part: Any, name: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise _UnreadableError(f"{name} has a part of type {kind!r}; only parts of text can be asked")
    text: str = part["text"]
    return text


def _history(values: Mapping[str, Any], used: list[str]) -> Turns:
    """The earlier turns in a column `history`: texts by turns, or pairs of user and assistant."""
    name = _column(values, ("history",))
    listed = values[name] if name is not None else None
    if isinstance(listed, str) and listed.strip().startswith("["):
        try:
            listed = json.loads(listed)
        except (ValueError, RecursionError):
            raise _UnreadableError(f"column {name!r} is no JSON list; write its turns as JSON") from None
    if name is None or not isinstance(listed, list | tuple) or not listed:
        return ()  # a text under this name is another thing
    used.append(name)
    turns = [turn for each in listed for turn in (each if isinstance(each, list | tuple) else (each,))]
    if len(turns) % 2:
        raise _UnreadableError(f"column {name!r} has {len(turns)} turns; give pairs of a user's and an assistant's")
    return tuple(_text(turn, f"turn {i} of column {name!r}") for i, turn in enumerate(turns, start=1))


def _check_columns(values: Mapping[str, Any]) -> None:
    """Raises _UnreadableError if the row stands on more than text."""
    for name, value in values.items():
        if name.lower() in _MEDIA_COLUMNS and _holds(value):
            raise _UnreadableError(f"column {name!r} holds what is no text; remove it if the prompt stands without")
        if name.lower() in _TOOL_COLUMNS and _holds(value) and (not isinstance(value, str) or value.strip()[0] in "[{"):
            raise _UnreadableError(f"column {name!r} has tools, which are not asked here; remove it to ask without")


def _holds(value: Any) -> bool:
    """Whether a value is there, and no number."""
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}", "null", "None")
    if value is None or isinstance(value, bool | int | float):
        return False
    return bool(value) if isinstance(value, Mapping | list | tuple) else True
