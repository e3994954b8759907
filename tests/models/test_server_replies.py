"""What a server says is read without ever failing: a text, a bill, or an error of the right kind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.models.server_replies import (
    Completion,
    Sent,
    ServerError,
    read_completion,
    read_error,
    read_json,
    read_usage,
    retry_after,
)

SENT = Sent("What is the temperature in Oslo?", 2048, ("response_format", "temperature", "max_new_tokens"))


def message(content: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": content, **more}}]}


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[int | None, Any, str]] = [
    # what waiting may mend
    (429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}, "again"),
    (429, {"error": {"message": "You exceeded your current quota. Please retry in 34.2s."}}, "again"),
    (500, {"error": {"message": "temperature of the GPU is too high"}}, "again"),
    (500, {"error": {"message": "the key-value store is gone"}}, "again"),
    (502, "<html>Bad Gateway</html>", "again"),
    (503, "", "again"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "again"),
    (408, {"error": "timeout"}, "again"),
    (None, {"message": "Provider returned error", "code": 502}, "again"),
    (None, {"message": "Overloaded", "type": "overloaded_error"}, "again"),
    (None, "model is loading", "again"),
    (None, {"code": "429", "message": "slow down"}, "again"),
    (None, {}, "again"),
    # this conversation
    (400, {"error": {"message": "This model's maximum context length is 4096 tokens"}}, "row"),
    (400, {"error": {"message": "max_tokens is too large: your context length of 4096 has 3000 input tokens"}}, "row"),
    (400, {"error": {"message": "Invalid prompt: What is the temperature in Oslo?"}}, "row"),
    (400, {"error": {"message": "filtered", "code": "content_filter"}}, "row"),
    (403, {"error": {"message": "Your input was flagged by moderation"}}, "row"),
    (413, "Payload too large", "row"),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "too long"}]}, "row"),
    (400, {"error": {"message": "Incorrect header Bearer ***"}}, "row"),
    (None, {"message": "prompt is too long", "type": "invalid_request_error"}, "row"),
    # the key
    (401, {"error": {"message": "Unauthorized"}}, "key"),
    (403, {"error": {"message": "Country not supported"}}, "key"),
    (400, {"error": {"message": "API key not valid. Please pass a valid API key.", "status": "x"}}, "key"),
    (400, [{"error": {"message": "API key expired", "code": 400}}], "key"),
    (None, {"message": "No auth credentials found", "code": 401}, "key"),
    (None, {"message": "no", "code": "invalid_api_key"}, "key"),
    (None, {"message": "no", "type": "authentication_error"}, "key"),
    # the account
    (402, {"error": {"message": "Insufficient credits", "code": 402}}, "funds"),
    (402, "", "funds"),
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "funds"),
    (429, {"error": {"message": "You exceeded your current quota, please check your plan"}}, "funds"),
    (429, {"error": {"message": "suspended", "type": "exceeded_current_quota_error"}}, "funds"),
    (400, {"error": {"message": "Your credit balance is too low to access the API"}}, "funds"),
    (403, {"error": "Your team doesn't have any credits yet"}, "funds"),
    (400, {"error": {"code": "Arrearage", "message": "Access denied"}}, "funds"),
    (400, {"error": {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"}}, "funds"),
    (None, {"message": "Insufficient Balance", "code": 402}, "funds"),
    # the address and the model
    (404, {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, "name"),
    (404, {"detail": "Not Found"}, "name"),
    (405, {"detail": "Method Not Allowed"}, "name"),
    (400, {"error": {"message": "m is not a valid model ID", "code": 400}}, "name"),
    (404, {"error": "model 'llama9' not found, try pulling it first"}, "name"),
    (None, {"message": "no such model", "code": 404}, "name"),
]


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
def test_an_error_is_of_its_kind(status: int | None, body: Any, kind: str) -> None:
    assert read_error(status, body, SENT).kind == kind


SETTINGS = [
    (400, {"error": {"message": "Unsupported parameter: max_tokens; use max_completion_tokens"}}, "max_new_tokens"),
    (400, {"error": {"message": "no", "param": "max_tokens", "code": "unsupported_parameter"}}, "max_new_tokens"),
    (400, {"error": {"message": "max_tokens is too large: this supports at most 1024 tokens"}}, "max_new_tokens"),
    (400, {"error": {"message": "maximum context length is 2,048 tokens, you asked for 2500"}}, "max_new_tokens"),
    (400, {"error": {"message": "temperature does not support 0.7 with this model"}}, "temperature"),
    (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.7"}}, "temperature"),
    (400, {"error": {"message": "Only the default (1) value is supported", "param": "temperature"}}, "temperature"),
    (422, {"detail": [{"loc": ["body", "temperature"], "msg": "should be less than 2"}]}, "temperature"),
    (400, {"error": {"message": "'response_format.type' must be 'json_schema'"}}, "response_format"),
    (400, {"error": {"message": "This response_format type is unavailable now"}}, "response_format"),
    (400, {"error": {"message": "json_schema is not supported with this model"}}, "response_format"),
    (400, {"error": {"message": "Invalid schema", "param": "response_format"}}, "response_format"),
    (400, {"error": {"message": "Unknown name \"response_format\": Cannot find field."}}, "response_format"),
    (404, {"error": {"message": "No endpoints found that support structured outputs"}}, "response_format"),
    (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs not permitted"}]}, "response_format"),
    (None, {"message": "temperature is not supported", "code": 400}, "temperature"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "setting"), SETTINGS)
def test_a_setting_that_is_not_taken_is_named(status: int | None, body: Any, setting: str) -> None:
    error = read_error(status, body, SENT)
    assert (error.kind, error.setting) == ("setting", setting)
    unasked = Sent(SENT.words, 9, ())
    assert read_error(status, body, unasked).kind != "setting", "only what was sent can be refused"


FILE = Path(__file__).parents[1] / "cases" / "server_errors.jsonl"
REPORTED = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", REPORTED, ids=range(len(REPORTED)))
def test_errors_that_people_report_are_of_their_kind(case: dict[str, Any]) -> None:
    """In the words of the servers and gateways they come from. Asked about the very words that errors hold."""
    sent = Sent("Solve: max tokens in a text? What is the temperature, unsupported?", 2048, SENT.settings)
    error = read_error(case["status"], case["body"], sent)
    assert (error.kind, error.setting) == (case["kind"], case["setting"])


def test_the_words_of_the_server_are_shown() -> None:
    said = {"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "GPU on\nfire"}}}
    assert read_error(None, said, SENT).words == "Provider returned error (GPU on fire)"
    assert read_error(503, said, SENT).words == "HTTP 503: Provider returned error (GPU on fire)"
    assert read_error(422, {"detail": [{"loc": ["body", "n"], "msg": "bad"}]}, SENT).words == "HTTP 422: body.n: bad"
    assert read_error(500, "<html>\n busy</html>", SENT).words == "HTTP 500: <html> busy</html>"
    assert read_error(500, "\x1b[31mred\x07 \u202egreen \ud83d!", SENT).words == "HTTP 500: [31mred green !"
    assert len(read_error(500, "x" * 10_000, SENT).words) < 500


# --- texts and bills --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "completion"),
    [
        (message("hello"), Completion("hello", "stop")),
        (message("hello", None), Completion("hello", "stop")),
        (message("hello", "length"), Completion("hello", "length")),
        (message("", "length"), Completion("", "length")),
        (message(None, "MAX_TOKENS"), Completion("", "length")),
        (message(None, "length", reasoning_content="Hm ..."), Completion("", "length", "Hm ...")),
        (message([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), Completion("ab", "stop")),
        (message(["a", "b"]), Completion("ab", "stop")),
        (message([{"text": "a"}]), Completion("a", "stop")),
        (message({"type": "text", "text": "a"}), Completion("a", "stop")),
        (message([{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "a"}]), Completion("a", "stop")),
        (message([{"type": "thinking", "text": "x"}]), Completion("", "stop")),
        (message([]), Completion("", "stop")),
        (message(42), Completion("", "stop")),
        (message("half \ud83d"), Completion("half ?", "stop")),
        (message("hello", "eos"), Completion("hello", "stop")),
    ],
)
def test_a_text_is_read(body: Any, completion: Completion) -> None:
    assert read_completion(body, SENT) == completion


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (message(None, "content_filter"), "row", "refused: content_filter"),
        (message("half of", "content_filter"), "row", "refused: content_filter"),
        (message("", "SAFETY"), "row", "refused: safety"),
        (message(None, "stop", refusal="I cannot help with that."), "row", "refused: I cannot help with that."),
        (message("half of", "error"), "again", "stopped writing: error"),
        (message(None, "abort"), "again", "stopped writing: abort"),
        ({"choices": [{"error": {"message": "gone", "code": 502}}]}, "again", "gone"),
        ({"choices": [], "error": {"message": "no", "code": 401}}, "key", "no"),
        ({"choices": []}, "again", "no completion in the body"),
        ({"choices": None}, "again", "no completion in the body"),
        ({"choices": {}}, "again", "no completion in the body"),
        ({"choices": ["x"]}, "again", "no completion in the body"),
        ({"object": "error", "message": "too busy", "code": 50001}, "again", "too busy"),
        ({"detail": "warming up"}, "again", "warming up"),
        ({}, "again", "no completion in the body"),
        ("<html>", "again", "no completion in the body: '<html>'"),
        (None, "again", "no completion in the body"),
        ([], "again", "no completion in the body"),
    ],
)
def test_what_is_no_text_is_an_error(body: Any, kind: str, words: str) -> None:
    with pytest.raises(ServerError) as caught:
        read_completion(body, SENT)
    assert caught.value.kind == kind
    assert words in caught.value.words


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}, (50, 20)),
        ({"prompt_tokens": 50, "completion_tokens": 20}, (50, 20)),
        ({"prompt_tokens": 50, "total_tokens": 90}, (50, 40)),
        ({"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 900}, (50, 850)),  # thoughts in the total alone
        ({"prompt_tokens": 50.0, "completion_tokens": 20.0}, (50, 20)),
        ({"prompt_tokens": 50}, None),
        ({"completion_tokens": 20}, None),
        ({"prompt_tokens": -50, "completion_tokens": 20}, None),
        ({"prompt_tokens": True, "completion_tokens": 20}, None),
        ({"prompt_tokens": "50", "completion_tokens": 20}, None),
        ({"prompt_tokens": 1e300, "completion_tokens": 20}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": 20}, None),
        ({"prompt_tokens": 2**60, "completion_tokens": 20}, None),
        ({}, None),
        (None, None),
        ([], None),
        ("50", None),
    ],
)
def test_a_bill_is_read_or_there_is_none(usage: Any, read: tuple[int, int] | None) -> None:
    assert read_usage({"usage": usage}) == read


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'[{"a": 1}]', {"a": 1}),
        (b"[1, 2]", [1, 2]),
        (b"<html>", "<html>"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 100_000),
        (b'{"a": ' + b"9" * 5000 + b"}", '{"a": ' + "9" * 5000 + "}"),
    ],
    ids=range(9),
)
def test_a_body_is_json_or_its_text(content: bytes, body: Any) -> None:
    assert read_json(content) == body


NAMES = """choices message content finish_reason error code usage detail type text prompt_tokens completion_tokens
refusal param metadata raw loc msg status""".split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["length", "error", "401"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES) | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON, st.none() | st.integers(100, 599))
def test_no_body_breaks_the_reader(body: Any, status: int | None) -> None:
    usage = read_usage(body)
    assert usage is None or min(usage) >= 0
    error = read_error(status, body, SENT)
    assert isinstance(error.words, str) and "\n" not in error.words
    assert (error.setting != "") == (error.kind == "setting")
    try:
        completion = read_completion(body, SENT)
    except ServerError:
        return
    completion.text.encode()
    assert read_json(json.dumps(body).encode()) == body or body != body


# --- Retry-After ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("-3", 0.0),
        ("86400", 86400.0),
        ("inf", float("inf")),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("21 Oct", None),
        ("Wed, 21 Oct 2015 07:28:00 +999999", None),
    ],
)
def test_retry_after_is_seconds_or_nothing(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_date_far_away_is_so_many_seconds() -> None:
    asked = retry_after("Fri, 31 Dec 2900 23:59:59 GMT")
    assert asked is not None and 870 * 365 * 86400 < asked + time.time() % 1 < 880 * 366 * 86400


@given(st.text() | st.from_regex(r"\w\w\w, \d{1,3} \w\w\w \d{1,6} \d\d:\d\d(:\d\d)? ?[\w+-]{0,6}", fullmatch=True))
def test_no_header_breaks_the_reader(header: str) -> None:
    asked = retry_after(header)
    assert asked is None or asked >= 0
