"""What a server of the OpenAI protocol says: a text, a bill, or an error and what kind of fault that is.

Servers differ in where they put an error (a status, a body with status 200, a choice) and in how they name it. All of
it is read here, as plain JSON, so that whatever a server sends is either a reply or a `ServerError` with its words.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

# again: may mend with time. row: this conversation is refused. The others end everything: a key that is refused, an
# account that is empty, a model or address that is not there, a setting that the server does not take.
Kind = Literal["again", "row", "key", "funds", "name", "setting"]
Finish = Literal["stop", "length"]


class ServerError(Exception):
    """The server gave no text. `setting` names the one that it does not take, "" else."""

    def __init__(self, kind: Kind, words: str, setting: str = "") -> None:
        super().__init__(words)
        self.kind, self.words, self.setting = kind, words, setting


@dataclass(frozen=True, slots=True)
class Completion:
    """`thoughts`: what came in place of a text, in short."""

    text: str
    finish: Finish
    thoughts: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What decides how an error is read: the words of the conversation, its limit of new tokens, and the settings that
    went with it."""

    words: str
    max_tokens: int
    settings: Collection[str]


def read_json(content: bytes) -> Any:
    """What is in a body: JSON, or the text where it is none."""
    text = content.decode("utf-8-sig", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return body[0] if isinstance(body, list) and len(body) == 1 else body  # as Gemini has its errors


def read_usage(body: Any) -> tuple[int, int] | None:
    """Tokens read and written by the bill in a body; None where there is none."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, new, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or (new is None and total is None):
        return None
    return prompt, max(new or 0, (total or 0) - prompt)  # some servers count thinking in the total alone


def read_completion(body: Any, sent: Sent) -> Completion:
    """The text in a body with status 200. The finish is read first: a text that is cut off may be empty.

    Raises ServerError where there is no text, or an error in its place.
    """
    if not isinstance(body, dict):
        raise ServerError("again", f"no completion in the body: {_short(body, 100)!r}")
    if error := body.get("error"):
        raise read_error(None, error, sent)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        said = body.get("detail") or body.get("message") or body.get("errors")
        if said:
            raise read_error(None, body, sent)
        raise ServerError("again", f"no completion in the body: {_short(body, 100)!r}")
    if error := choice.get("error"):
        raise read_error(None, error, sent)
    finish = str(choice.get("finish_reason") or "stop").casefold()
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    if finish in _FILTERED or message.get("refusal"):
        why = _short(message["refusal"], 200) if message.get("refusal") else finish
        raise ServerError("row", f"refused: {why}")
    if finish in _BROKEN:
        raise ServerError("again", f"the server stopped writing: {finish}")
    text = _text(message.get("content"))
    thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
    return Completion(text, "length" if finish in _CUT else "stop", "" if text.strip() else _short(thoughts, 100))


_CUT = {"length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length", "max_length"}
_FILTERED = {"content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content"}
_FILTERED |= {"refusal", "sensitive", "spii", "guardrail_intervened"}
_BROKEN = {"error", "network_error", "abort", "cancelled", "insufficient_system_resource"}


def _text(content: Any) -> str:
    """The text of a message, whose content may come in parts."""
    parts = content if isinstance(content, list) else [content]
    texts = (
        part.get("text") if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text") else part
        for part in parts
    )
    text = "".join(text for text in texts if isinstance(text, str))
    return text.encode("utf-8", "replace").decode()  # JSON can hold half a surrogate pair


def read_error(status: int | None, error: Any, sent: Sent) -> ServerError:
    """What kind of fault an error is. `status` is that of HTTP, None for an error in a body with status 200."""
    error = error.get("error") or error if isinstance(error, dict) else error
    fields: Mapping[str, Any] = error if isinstance(error, dict) else {}
    words = _words(error)
    names = {str(fields.get(name)).casefold() for name in ("code", "type", "status")}
    if status is None:
        numbers = [int(name) for name in names if re.fullmatch(r"[1-5][0-9][0-9]", name)]
        status = next(iter(numbers), next((code for name, code in _STATUS.items() if name in names), 500))
        said = words
    else:
        said = f"HTTP {status}: {words}"
    funds = status == 402 or names & _FUNDS_CODES or (status != 429 and _FUNDS.search(words))
    if funds or (status == 429 and _QUOTA.search(words) and not _LATER.search(words)):
        return ServerError("funds", said)
    if status == 429 or status in (408, 409, 425) or status >= 500:
        return ServerError("again", said)
    if status == 401 or _KEY.search(words) or (status == 403 and not _MODERATED.search(words)):
        return ServerError("key", said)
    if setting := _setting(words, fields.get("param"), sent):
        return ServerError("setting", said, setting)
    if status in (301, 302, 307, 308, 404, 405, 410) or "model_not_found" in names or _MODEL.search(words):
        return ServerError("name", said)
    return ServerError("row", said)


_STATUS = {
    "invalid_request_error": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "invalid_argument": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
}
_FUNDS_CODES = {"insufficient_quota", "insufficient_balance", "insufficient_credits", "insufficient_user_quota"}
_FUNDS_CODES |= {"exceeded_current_quota_error", "billing_hard_limit_reached", "billing_not_active", "arrearage"}


def _pattern(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE)


_FUNDS = _pattern(
    r"credit balance", r"insufficient.{0,12}(credit|balance|fund|quota)", r"(no|out of|have any|more) credits",
    r"billing (hard )?limit", r"exceeded.{0,30}(budget|credits)", r"budget.{0,12}exceeded",
    r"account.{0,20}(deactivated|suspended|overdue)", r"payment (is )?required", r"arrearage",
)  # fmt: skip
_QUOTA = _pattern(
    r"exceeded your current quota", r"insufficient.{0,12}(credit|balance|fund|quota)", r"credit balance",
    r"budget.{0,12}exceeded", r"out of credits",
)  # fmt: skip
_LATER = _pattern(r"(retry|try again|wait).{0,20}\d")
_KEY = _pattern(
    r"(incorrect|invalid|missing|no|wrong|expired|revoked).{0,12}(api.?key|auth\w* (credential|token))",
    r"api.?key.{0,30}(invalid|not valid|incorrect|missing|expired|revoked|required)",
    r"unauthori[sz]ed",
)  # fmt: skip
_MODERATED = _pattern("moderat", "flagged", "content.{0,8}(policy|filter|management)", "safety", "violat", "harmful")
_MODEL = _pattern(
    r"model.{0,60}(not found|not exist|does not exist|doesn't exist|not a valid|is not available|not loaded)",
    r"(unknown|no such|invalid|not a valid) model", r"model_not_found",
)  # fmt: skip
_CONTEXT = _pattern(r"context.{0,12}(length|window|size)", r"too long", r"too many (input )?tokens", r"input (is )?too")
_SETTINGS = {
    "response_format": _pattern(
        r"response.?format", r"json.?(schema|object|mode)", r"structured.?output", r"guided", r"\bgrammar\b"
    ),
    "temperature": _pattern(r"\btemperature\b"),
    "max_new_tokens": _pattern(r"\bmax_?(completion_?|output_?|new_?)?tokens\b"),
    "top_p": _pattern(r"\btop_?p\b"),
    "seed": _pattern(r"\bseed\b"),
}
_PROTEST = _pattern(
    r"unsupported", r"not (be )?support", r"n't support", r"unknown", r"unrecogni", r"unexpected", r"invalid",
    r"not (be )?(permitted|allowed|accepted|taken|recogni[sz]ed|available|implemented|enabled|compatible|valid)",
    r"extra (inputs|fields)", r"only\b.{0,30}default", r"(must|should|can only|may only|cannot|can't) ",
    "incompatible", "at most", "maximum", r"\brange\b", "exceed",
    "too (large|big|high|small)", "deprecated", "no endpoints found", "forbidden", "unavailable", "less than",
    "greater than", "is not one of", "not (accept|take|allow)",
)  # fmt: skip


def _setting(words: str, parameter: Any, sent: Sent) -> str:
    """The setting that an error is about, "" if it is about the conversation."""
    if _CONTEXT.search(words):
        context = re.search(r"context.{0,12}(?:length|window|size)\D{0,12}([\d,]+)", words, re.IGNORECASE)
        size = int(context[1].replace(",", "") or 0) if context else 0
        return "max_new_tokens" if 0 < size <= sent.max_tokens else ""
    patterns = {name: pattern for name, pattern in _SETTINGS.items() if name in sent.settings}
    if isinstance(parameter, str):
        return next((name for name, pattern in patterns.items() if pattern.search(parameter)), "")
    if not _PROTEST.search(words):
        return ""
    found = []
    for name, pattern in patterns.items():
        for match in pattern.finditer(words):
            around = words[max(0, match.start() - 12) : match.end() + 12]
            if around not in sent.words:  # else the server repeats what it was asked
                found.append((match.start(), name))
    return min(found)[1] if found else ""


def _words(error: Any) -> str:
    """An error in the server's words, on one line."""
    if not isinstance(error, dict):
        return _short(error) or "without a word"
    said = next((error[name] for name in ("message", "detail", "msg", "errors") if error.get(name)), error)
    if isinstance(said, list):  # as FastAPI has it
        said = "; ".join(
            f"{'.'.join(map(str, each.get('loc', ())))}: {each.get('msg')}"
            if isinstance(each, dict) and isinstance(each.get("loc", ()), list | tuple)
            else _short(each)
            for each in said[:5]
        )
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # of the provider behind a gateway
    return f"{_short(said)} ({_short(raw)})" if raw else _short(said)


def _short(value: Any, limit: int = 400) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = "nested too deeply to show"
    text = "".join(character if character.isprintable() else " " for character in text)  # nothing a terminal obeys
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "..."


def _count(value: Any) -> int | None:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def retry_after(header: str) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3: a number, or a date); None where it is neither."""
    try:
        seconds = float(header)
        return None if math.isnan(seconds) else max(0.0, seconds)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
